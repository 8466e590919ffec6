//! `cargo xtask bench engine`: this engine and others on the same file, the same tokens and the same threads, by turns in
//! one run; the medians and their ratios.

mod contender;
mod plot;
mod protocol;
mod report;
mod worker;

use anyhow::{Context as _, Result, ensure};
use contender::{Contender, Peer};
use freehold_engine::speed::{MANY_TOKENS, any_tokens};
use freehold_kernels::Isa;
use protocol::{Answer, Question};
use report::{Comparison, Row, Unit};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use worker::Options as WorkerOptions;

/// Tokens of the prompt of a start, and of those of the sequences in a batch.
const SHORT_PROMPT: usize = 16;
/// Positions of the cache, if no more are asked for.
const POSITIONS: usize = 4096;
/// Below the vocabulary of every model that is compared.
const VOCABULARY: usize = 30_000;

/// For longer than this no engine's threads wait for more work before they sleep: OpenMP's do for 200 ms.
const THREADS_SPIN: Duration = Duration::from_millis(400);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// GGUF files.
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// An engine to compare with: `llama.cpp` or `mistral.rs` and a Python that has the package llama-cpp-python or
    /// mistralrs, or `candle` and the program of `peers/candle`. llama.cpp is asked without and with flash attention, and
    /// the better answer counts.
    #[arg(long, value_name = "NAME=PROGRAM")]
    peer: Vec<Peer>,
    /// Instruction set of this engine [default: the fastest].
    #[arg(long)]
    isa: Option<Isa>,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// How decoding slows down with depth and gains from streams, instead of prefill, start and memory: other depths and
    /// streams by default, and fewer tokens.
    #[arg(long, conflicts_with_all = ["prefill", "decode", "starts"])]
    growth: bool,
    /// Draws what `--growth` measures of a model.
    #[arg(long, value_name = "FILE.svg", requires = "growth")]
    plot: Option<PathBuf>,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 512)]
    prefill: usize,
    /// Tokens decoded one by one after a prompt of one.
    #[arg(long, default_value_t = 128)]
    decode: usize,
    /// Tokens before those that are decoded.
    #[arg(long, value_delimiter = ',', default_value = "1024")]
    #[arg(default_value_if("growth", "true", "128,512,1024,2048,4096,8192"))]
    depths: Vec<usize>,
    /// Sequences decoded together.
    #[arg(long, value_delimiter = ',', default_value = "16")]
    #[arg(default_value_if("growth", "true", "1,2,4,8,16,32,64"))]
    streams: Vec<usize>,
    /// Tokens decoded at a depth, and by each of several streams.
    #[arg(long, default_value_t = 32, default_value_if("growth", "true", "16"))]
    tokens: usize,
    /// Turns; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    turns: u32,
    /// Processes started to see how long that takes and what memory they need; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    starts: u32,
    /// Everything as JSON.
    #[arg(long)]
    json: bool,
}

impl Options {
    pub(crate) fn run(&self) -> Result<()> {
        ensure!(self.plot.is_none() || self.models.len() == 1, "--plot draws one model");
        let isa = self.isa.unwrap_or_else(Isa::best);
        let names: Vec<&str> = std::iter::once("freehold").chain(self.peer.iter().map(|peer| &*peer.name)).collect();
        if !self.json {
            let starts = if self.growth { String::new() } else { format!(" and {} starts", self.starts) };
            println!("{isa}, {} threads, medians of {} turns{starts}\n", self.threads, self.turns);
            let peers = names[1..].iter().map(|name| format!(" {name} | ratio |")).collect::<String>();
            println!("| model | | freehold |{peers}\n|---|---|---|{}", "---|---|".repeat(self.peer.len()));
        }
        let mut of_models = Vec::new();
        for path in &self.models {
            let comparison = self.compare(path, isa).with_context(|| path.display().to_string())?;
            if !self.json {
                comparison.print(&names);
            }
            if let Some(file) = &self.plot {
                let title = format!("{}, {isa}, {} threads", comparison.model, self.threads);
                std::fs::write(file, comparison.plot(&title, &names))
                    .with_context(|| format!("{} cannot be written", file.display()))?;
            }
            of_models.push(comparison.json(&names));
        }
        if self.json {
            let (isa, threads, turns, starts) = (isa.to_string(), self.threads, self.turns, self.starts);
            let all = json!({ "isa": isa, "threads": threads, "turns": turns, "starts": starts, "models": of_models });
            println!("{all:#}");
        }
        Ok(())
    }

    fn compare(&self, path: &Path, isa: Isa) -> Result<Comparison> {
        let load = self.load();
        let mut contenders = self.contenders(path, isa)?;
        // What is slow the first time only is not counted.
        ask_each(&mut contenders, &load)?;
        ask_each(&mut contenders, &Question::Prefill { ids: any_tokens(VOCABULARY, self.prefill) })?;
        let mut ask_freehold = |question: Question| contenders[0].ask(&question)?.0.map_err(anyhow::Error::msg);
        let token_bytes = ask_freehold(Question::WeightBytes { tokens: 1 })?;
        let all_bytes = ask_freehold(Question::WeightBytes { tokens: MANY_TOKENS })?;
        let mut read_rate = 0f64;
        let mut rows = Vec::new();
        for (name, question, workload, tokens) in self.questions() {
            let mut turns = Vec::new();
            for _ in 0..self.turns {
                turns.push(ask_each(&mut contenders, &question)?);
            }
            read_rate = read_rate.max(
                contenders[0]
                    .ask(&Question::ReadRate { bytes: token_bytes as usize })?
                    .0
                    .map_err(anyhow::Error::msg)?,
            );
            let answers = best(&contenders, &turns);
            rows.push(Row { name, workload, unit: Unit::TokensPerSecond(tokens), answers });
        }
        drop(contenders);
        if !self.growth {
            rows.extend(self.starts(path, isa, &load)?);
        }
        let model = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Comparison { model, rows, token_bytes, all_bytes, read_rate })
    }

    /// Seconds and memory of processes that are started anew.
    fn starts(&self, path: &Path, isa: Isa, load: &Question) -> Result<Vec<Row>> {
        // The work after which memory is looked at.
        let work = [
            Question::Prefill { ids: any_tokens(VOCABULARY, 512) },
            Question::Decode { depth: 1, ids: any_tokens(VOCABULARY, 17) },
        ];
        let (mut seconds, mut peaks) = (Vec::new(), Vec::new());
        let mut contenders = Vec::new();
        for _ in 0..self.starts {
            contenders = self.contenders(path, isa)?;
            let loaded = ask_each(&mut contenders, load)?;
            for question in &work {
                ask_each(&mut contenders, question)?;
            }
            let peak = |(contender, loaded): (&Contender, &Answer)| match loaded {
                Answer(Ok(_)) => contender.peak_bytes(),
                cannot => cannot.clone(),
            };
            peaks.push(contenders.iter().zip(&loaded).map(peak).collect());
            seconds.push(loaded);
        }
        let row = |name: &str, workload, unit, rounds: &[Vec<Answer>]| {
            let answers = best(&contenders, rounds);
            Row { name: name.to_owned(), workload, unit, answers }
        };
        Ok(vec![
            row("start to first token", json!({ "start": SHORT_PROMPT }), Unit::Seconds, &seconds),
            row("peak memory", json!({ "memory": "peak" }), Unit::Bytes, &peaks),
        ])
    }

    fn load(&self) -> Question {
        let deepest = self.depths.iter().map(|depth| depth + self.tokens).max().unwrap_or(0);
        let positions = POSITIONS.max(deepest).max(self.prefill).max(1 + self.decode);
        Question::Load { positions, ids: any_tokens(VOCABULARY, SHORT_PROMPT) }
    }

    /// Each with a name, what it is for programs, and the tokens that its seconds are for.
    fn questions(&self) -> Vec<(String, Question, Value, usize)> {
        let ids = |count| any_tokens(VOCABULARY, count);
        let decode = |name: String, depth: usize, tokens: usize| {
            let question = Question::Decode { depth, ids: ids(depth + tokens) };
            (name, question, json!({ "decode": tokens, "depth": depth }), tokens)
        };
        let mut questions = Vec::new();
        if !self.growth {
            let prefill = self.prefill;
            let question = Question::Prefill { ids: ids(prefill) };
            questions.push((format!("prefill {prefill}"), question, json!({ "prefill": prefill }), prefill));
            questions.push(decode(format!("decode {}", self.decode), 1, self.decode));
        }
        let tokens = self.tokens;
        questions.extend(self.depths.iter().map(|&depth| decode(format!("decode at depth {depth}"), depth, tokens)));
        questions.extend(self.streams.iter().map(|&streams| {
            // The first token of each is its prompt.
            let question = Question::Streams { streams, ids: ids(streams * (tokens + 1)) };
            let name = if streams == 1 { "1 stream".to_owned() } else { format!("{streams} streams together") };
            (name, question, json!({ "decode": tokens, "streams": streams }), streams * tokens)
        }));
        questions
    }

    /// This engine, then each peer, all started anew.
    fn contenders(&self, path: &Path, isa: Isa) -> Result<Vec<Contender>> {
        let mut contenders = vec![Contender::freehold(path, isa, self.threads)?];
        for (index, peer) in self.peer.iter().enumerate() {
            contenders.extend(peer.start(path, self.threads, 1 + index)?);
        }
        Ok(contenders)
    }
}

/// What each of the contenders answers.
fn ask_each(contenders: &mut [Contender], question: &Question) -> Result<Vec<Answer>> {
    let ask = |contender: &mut Contender| {
        std::thread::sleep(THREADS_SPIN);
        contender.ask(question)
    };
    contenders.iter_mut().map(ask).collect()
}

/// Of each column the least median of those of its contenders, whose answers came round by round.
fn best(contenders: &[Contender], rounds: &[Vec<Answer>]) -> Vec<Answer> {
    let mut best: Vec<Answer> = Vec::new();
    for (index, contender) in contenders.iter().enumerate() {
        let answers: Result<Vec<f64>, String> = rounds.iter().map(|round| round[index].0.clone()).collect();
        let median = Answer(answers.map(median));
        match best.get_mut(contender.column) {
            None => best.push(median),
            Some(Answer(Ok(least))) => *least = median.0.map_or(*least, |median| least.min(median)),
            Some(cannot) => *cannot = median,
        }
    }
    best
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
