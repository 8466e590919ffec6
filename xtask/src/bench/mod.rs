//! `cargo xtask bench engine`: this engine and llama.cpp on the same file, the same tokens and the same threads, by
//! turns in one run; the medians and their ratios.

mod contender;
mod worker;

use anyhow::{Context as _, Result};
use contender::{Contender, Question};
use freehold_base::units::format_bytes;
use freehold_kernels::Isa;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

pub(crate) use worker::Options as WorkerOptions;

/// Tokens of the prompt of a start, and of those of the sequences in a batch.
const SHORT_PROMPT: usize = 16;
/// Tokens decoded at a depth, and by each of several streams.
const SHORT_ANSWER: usize = 32;

/// For longer than this no engine's threads wait for more work before they sleep: OpenMP's do for 200 ms.
const THREADS_SPIN: Duration = Duration::from_millis(400);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// GGUF files.
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// A Python that has llama-cpp-python, to compare with, under a name for the table. Each is tried with and without flash
    /// attention; the better one counts.
    #[arg(long, value_name = "NAME=PYTHON")]
    peer: Vec<PeerPython>,
    /// Instruction set of this engine [default: the fastest].
    #[arg(long)]
    isa: Option<Isa>,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 512)]
    prefill: usize,
    /// Tokens decoded one by one after a prompt of one.
    #[arg(long, default_value_t = 128)]
    decode: usize,
    /// Tokens before those that are decoded.
    #[arg(long, value_delimiter = ',', default_value = "1024")]
    depths: Vec<usize>,
    /// Sequences decoded together.
    #[arg(long, value_delimiter = ',', default_value = "16")]
    streams: Vec<usize>,
    /// Turns; the median counts.
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Processes started to see how long that takes and what memory they need; the median counts.
    #[arg(long, default_value_t = 3)]
    starts: usize,
}

#[derive(Clone)]
struct PeerPython {
    name: String,
    python: PathBuf,
}

impl FromStr for PeerPython {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, python) = text.split_once('=').ok_or("give it as NAME=PYTHON")?;
        Ok(Self { name: name.to_owned(), python: python.into() })
    }
}

/// A line of the table: what is asked, and how an answer is shown.
struct Row {
    name: String,
    question: Question,
    unit: Unit,
}

#[derive(Clone, Copy)]
enum Unit {
    /// Answers are seconds for so many tokens: more a second is better.
    TokensPerSecond(usize),
    /// Answers are seconds: fewer are better.
    Seconds,
    /// Fewer are better.
    Bytes,
}

impl Unit {
    fn show(self, answer: f64) -> String {
        match self {
            Self::TokensPerSecond(tokens) => format!("{:.1} tok/s", tokens as f64 / answer),
            Self::Seconds => format!("{answer:.3} s"),
            Self::Bytes => format_bytes(answer as u64),
        }
    }

    /// Ours to the peer's: of rates, which should be large; of times and sizes, which should be small.
    fn ratio(self, ours: f64, peer: f64) -> f64 {
        match self {
            Self::TokensPerSecond(_) => peer / ours,
            Self::Seconds | Self::Bytes => ours / peer,
        }
    }
}

impl Options {
    pub(crate) fn run(&self) -> Result<()> {
        let isa = self.isa.unwrap_or_else(Isa::best);
        println!("{isa}, {} threads, medians of {} turns and {} starts\n", self.threads, self.turns, self.starts);
        let peers = self.peer.iter().map(|peer| format!(" {} | ratio |", peer.name)).collect::<String>();
        println!("| model | | freehold |{peers}\n|---|---|---|{}", "---|---|".repeat(self.peer.len()));
        for path in &self.models {
            self.compare(path, isa).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    fn compare(&self, path: &Path, isa: Isa) -> Result<()> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let rows = self.rows();
        let (at_start, by_turns): (Vec<&Row>, Vec<&Row>) =
            rows.iter().partition(|row| matches!(row.question, Question::Load { .. } | Question::PeakBytes));
        // What each contender answered to each question.
        let mut of_starts = Vec::new();
        for _ in 0..self.starts {
            let mut contenders = self.contenders(path, isa)?;
            let mut answers = ask_all(&mut contenders, &[&at_start[0].question])?;
            // The work after which memory is looked at.
            let work = [Question::Prefill { tokens: 512 }, Question::Decode { depth: 1, tokens: 16 }];
            ask_all(&mut contenders, &work.each_ref())?;
            answers.extend(ask_all(&mut contenders, &[&at_start[1].question])?);
            of_starts.push(answers);
        }
        let mut of_turns = Vec::new();
        let mut contenders = self.contenders(path, isa)?;
        let questions: Vec<&Question> = by_turns.iter().map(|row| &row.question).collect();
        ask_all(&mut contenders, &[&at_start[0].question, &Question::Prefill { tokens: self.prefill }])?;
        let mut read_rate = 0f64;
        for _ in 0..self.turns {
            read_rate = read_rate.max(contenders[0].ask(&Question::ReadRate)?);
            of_turns.push(ask_all(&mut contenders, &questions)?);
        }
        for (rows, answers) in [(&by_turns, &of_turns), (&at_start, &of_starts)] {
            for (index, row) in rows.iter().enumerate() {
                let median = |contender: usize| median(answers.iter().map(|answers| answers[index][contender]));
                let ours = median(0);
                let mut line = format!("| {name} | {} | {} |", row.name, row.unit.show(ours));
                for peer in 0..self.peer.len() {
                    // Without flash attention and with it.
                    let theirs = median(1 + 2 * peer).min(median(2 + 2 * peer));
                    line += &format!(" {} | {:.2} |", row.unit.show(theirs), row.unit.ratio(ours, theirs));
                }
                println!("{line}");
            }
        }
        let weights = contenders[0].ask(&Question::WeightBytes)?;
        let decode = median(of_turns.iter().map(|answers| answers[1][0]));
        let reached = weights * self.decode as f64 / decode;
        println!(
            "\n{name}: {} of weights for a token; decode {} reads {} a second, {:.0} % of the {} that a buffer of that size \
             gives.\n",
            format_bytes(weights as u64),
            self.decode,
            format_bytes(reached as u64),
            100.0 * reached / read_rate,
            format_bytes(read_rate as u64),
        );
        Ok(())
    }

    fn rows(&self) -> Vec<Row> {
        let row = |name: String, question, unit| Row { name, question, unit };
        let (prefill, decode) = (self.prefill, self.decode);
        let mut rows = vec![
            row(format!("prefill {prefill}"), Question::Prefill { tokens: prefill }, Unit::TokensPerSecond(prefill)),
            row(
                format!("decode {decode}"),
                Question::Decode { depth: 1, tokens: decode },
                Unit::TokensPerSecond(decode),
            ),
        ];
        rows.extend(self.depths.iter().map(|&depth| {
            let question = Question::Decode { depth, tokens: SHORT_ANSWER };
            row(format!("decode at depth {depth}"), question, Unit::TokensPerSecond(SHORT_ANSWER))
        }));
        rows.extend(self.streams.iter().map(|&streams| {
            let question = Question::Streams { streams, tokens: SHORT_ANSWER };
            row(format!("{streams} streams together"), question, Unit::TokensPerSecond(streams * SHORT_ANSWER))
        }));
        let load = Question::Load { tokens: SHORT_PROMPT };
        rows.push(row("start to first token".to_owned(), load, Unit::Seconds));
        rows.push(row("peak memory".to_owned(), Question::PeakBytes, Unit::Bytes));
        rows
    }

    /// This engine, then each peer without flash attention and with it, all started anew.
    fn contenders(&self, path: &Path, isa: Isa) -> Result<Vec<Contender>> {
        let mut contenders = vec![Contender::freehold(path, isa, self.threads)?];
        for PeerPython { python, .. } in &self.peer {
            for flash_attention in [false, true] {
                contenders.push(Contender::llama_cpp(python, path, self.threads, flash_attention)?);
            }
        }
        Ok(contenders)
    }
}

/// Of each question, what each of the contenders answers.
fn ask_all(contenders: &mut [Contender], questions: &[&Question]) -> Result<Vec<Vec<f64>>> {
    let mut ask = |question: &Question| {
        let of_contender = |contender: &mut Contender| {
            std::thread::sleep(THREADS_SPIN);
            contender.ask(question)
        };
        contenders.iter_mut().map(of_contender).collect()
    };
    questions.iter().map(|question| ask(question)).collect()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
