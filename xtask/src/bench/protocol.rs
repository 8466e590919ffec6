//! What a benchmark and a contender say to each other: a question a line, and to each question a line of answer.
//!
//! A question is its name, a number and token ids, parted by spaces: `decode 2 7,9,4`.
//!
//! | name | number | token ids | answer |
//! |---|---|---|---|
//! | `load`, the first | positions that its cache is to hold | a prompt | seconds from before the file is opened to the logits of the last token |
//! | `prefill` | 0 | a prompt | seconds to the logits of the last token |
//! | `decode` | the depth | of one sequence | seconds that its tokens take one by one, but for the first ones, of which there are as many as the depth |
//! | `streams` | of sequences | of all sequences, one after the other, all of one length | seconds that they take together, a token of each in a step, from their second tokens on |
//! | `weight-bytes` | of tokens | none | bytes of weights that a step of so many tokens reads, each once |
//! | `read-rate` | of bytes | none | bytes that are read in a second from a buffer so large |
//!
//! An answer is a number, or `cannot` and the reason. What an engine cannot do is no failure, and no number either.
//!
//! Contenders in Rust have this file; in Python, `scripts/bench_worker.py` stands for it.

use std::fmt;
use std::str::FromStr;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Question {
    Load { positions: usize, ids: Vec<u32> },
    Prefill { ids: Vec<u32> },
    Decode { depth: usize, ids: Vec<u32> },
    Streams { streams: usize, ids: Vec<u32> },
    WeightBytes { tokens: usize },
    ReadRate { bytes: usize },
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, number, ids): (_, _, &[u32]) = match self {
            Self::Load { positions, ids } => ("load", *positions, ids),
            Self::Prefill { ids } => ("prefill", 0, ids),
            Self::Decode { depth, ids } => ("decode", *depth, ids),
            Self::Streams { streams, ids } => ("streams", *streams, ids),
            Self::WeightBytes { tokens } => ("weight-bytes", *tokens, &[]),
            Self::ReadRate { bytes } => ("read-rate", *bytes, &[]),
        };
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        write!(f, "{name} {number} {}", ids.join(","))
    }
}

impl FromStr for Question {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let no_question = || format!("no question: {line}");
        let words: Vec<&str> = line.split(' ').collect();
        let [name, number, ids] = words[..] else { return Err(no_question()) };
        let number = number.parse().map_err(|_| no_question())?;
        let ids = ids.split(',').filter(|id| !id.is_empty()).map(str::parse).collect::<Result<_, _>>();
        let ids = ids.map_err(|_| no_question())?;
        match name {
            "load" => Ok(Self::Load { positions: number, ids }),
            "prefill" => Ok(Self::Prefill { ids }),
            "decode" => Ok(Self::Decode { depth: number, ids }),
            "streams" => Ok(Self::Streams { streams: number, ids }),
            "weight-bytes" => Ok(Self::WeightBytes { tokens: number }),
            "read-rate" => Ok(Self::ReadRate { bytes: number }),
            _ => Err(no_question()),
        }
    }
}

/// A number, or why there is none.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer(pub(crate) Result<f64, String>);

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Ok(number) => write!(f, "{number}"),
            // Of reasons in several lines, the first says what is wrong.
            Err(reason) => write!(f, "cannot {}", reason.lines().next().unwrap_or_default()),
        }
    }
}

impl FromStr for Answer {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        match line.strip_prefix("cannot ") {
            Some(reason) => Ok(Self(Err(reason.to_owned()))),
            None => line.parse().map(|number| Self(Ok(number))).map_err(|_| format!("no answer: {line}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let questions = [
            (Question::Load { positions: 4096, ids: vec![5, 6] }, "load 4096 5,6"),
            (Question::Prefill { ids: vec![0, u32::MAX] }, "prefill 0 0,4294967295"),
            (Question::Decode { depth: 1, ids: vec![7, 8, 9] }, "decode 1 7,8,9"),
            (Question::Streams { streams: 2, ids: vec![1, 2, 3, 4] }, "streams 2 1,2,3,4"),
            (Question::WeightBytes { tokens: 1 }, "weight-bytes 1 "),
            (Question::ReadRate { bytes: 1 << 30 }, "read-rate 1073741824 "),
        ];
        for (question, line) in questions {
            assert_eq!(question.to_string(), line);
            assert_eq!(line.parse(), Ok(question));
        }
        let answers = [(Answer(Ok(0.25)), "0.25"), (Answer(Err("no model".to_owned())), "cannot no model")];
        for (answer, line) in answers {
            assert_eq!(answer.to_string(), line);
            assert_eq!(line.parse(), Ok(answer));
        }
        for line in ["", "load", "load 1", "load 1 2 3", "load -1 2", "load 1 2,x", "sing 1 2"] {
            assert_eq!(line.parse::<Question>(), Err(format!("no question: {line}")));
        }
        assert_eq!("fast".parse::<Answer>(), Err("no answer: fast".to_owned()));
        assert_eq!(Answer(Err("no memory\n   0: main".to_owned())).to_string(), "cannot no memory");
    }
}
