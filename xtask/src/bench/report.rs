//! What was measured, as a table for people, as JSON and as a plot.

use super::plot::{self, Line, Panel};
use super::protocol::Answer;
use freehold_base::units::format_bytes;
use serde_json::{Value, json};

/// What was found of a model.
pub(crate) struct Comparison {
    pub(crate) model: String,
    pub(crate) rows: Vec<Row>,
    /// Bytes of weights that a token needs, and that a step of many tokens does.
    pub(crate) token_bytes: f64,
    pub(crate) all_bytes: f64,
    /// Bytes a second that a buffer of a token's weights is read with.
    pub(crate) read_rate: f64,
}

/// A line of the table.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) workload: Value,
    pub(crate) unit: Unit,
    /// This engine's, then the peers'.
    pub(crate) answers: Vec<Answer>,
}

#[derive(Clone, Copy)]
pub(crate) enum Unit {
    /// Answers are seconds for so many tokens: more a second is better.
    TokensPerSecond(usize),
    /// Answers are seconds: fewer are better.
    Seconds,
    /// Fewer are better.
    Bytes,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::TokensPerSecond(_) => "tokens_per_second",
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
        }
    }

    fn value(self, answer: f64) -> f64 {
        match self {
            Self::TokensPerSecond(tokens) => tokens as f64 / answer,
            Self::Seconds | Self::Bytes => answer,
        }
    }

    fn show(self, answer: f64) -> String {
        let value = self.value(answer);
        match self {
            Self::TokensPerSecond(_) => format!("{value:.1} tok/s"),
            Self::Seconds => format!("{value:.3} s"),
            Self::Bytes => format_bytes(value as u64),
        }
    }
}

impl Comparison {
    pub(crate) fn print(&self, names: &[&str]) {
        let mut reasons = Vec::new();
        for row in &self.rows {
            let ours = &row.answers[0].0;
            let mut line = format!("| {} | {} |", self.model, row.name);
            for (column, (answer, name)) in row.answers.iter().zip(names).enumerate() {
                match &answer.0 {
                    Ok(answer) => line += &format!(" {} |", row.unit.show(*answer)),
                    Err(reason) => {
                        line += " – |";
                        reasons.push(format!("{name}, {}: {reason}", row.name));
                    }
                }
                match (ours, &answer.0) {
                    _ if column == 0 => {}
                    // Of rates, which should be large; of times and sizes, which should be small.
                    (Ok(ours), Ok(peer)) => line += &format!(" {:.2} |", row.unit.value(*ours) / row.unit.value(*peer)),
                    _ => line += " – |",
                }
            }
            println!("{line}");
        }
        println!();
        reasons.iter().for_each(|reason| println!("– {reason}"));
        let of_all = if self.all_bytes > self.token_bytes {
            format!(", of {} for many tokens", format_bytes(self.all_bytes as u64))
        } else {
            String::new()
        };
        let mut text =
            format!("{}: {} of weights for a token{of_all}", self.model, format_bytes(self.token_bytes as u64));
        let decode = self.rows.iter().find(|row| row.workload.get("depth").is_some());
        if let Some((decode, Ok(seconds))) = decode.map(|row| (row, &row.answers[0].0)) {
            let reached = self.token_bytes * decode.unit.value(*seconds);
            text += &format!(
                "; {} reads {} a second, {:.0} % of the {} that a buffer of that size gives",
                decode.name,
                format_bytes(reached as u64),
                100.0 * reached / self.read_rate,
                format_bytes(self.read_rate as u64),
            );
        }
        println!("{text}.\n");
    }

    pub(crate) fn json(&self, names: &[&str]) -> Value {
        let row = |row: &Row| {
            let answer = |(answer, name): (&Answer, &&str)| match &answer.0 {
                Ok(answer) => json!({ "engine": name, row.unit.name(): row.unit.value(*answer) }),
                Err(reason) => json!({ "engine": name, "cannot": reason }),
            };
            let answers: Vec<Value> = row.answers.iter().zip(names).map(answer).collect();
            json!({ "workload": row.workload, "answers": answers })
        };
        json!({
            "model": self.model,
            "weight_bytes_per_token": self.token_bytes,
            "weight_bytes": self.all_bytes,
            "read_bytes_per_second": self.read_rate,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }

    pub(crate) fn plot(&self, title: &str, names: &[&str]) -> String {
        let panel = |key: &str, title: &'static str| {
            let rows = self.rows.iter().filter_map(|row| Some((row, row.workload.get(key)?.as_u64()?)));
            let line = |(column, name): (usize, &&str)| {
                let value = |(row, at): (&Row, u64)| Some((at, row.unit.value(*row.answers[column].0.as_ref().ok()?)));
                Line { name: (*name).to_owned(), points: rows.clone().filter_map(value).collect() }
            };
            Panel { title, lines: names.iter().enumerate().map(line).collect() }
        };
        let panels = [
            panel("depth", "tokens/s of one stream, by tokens before"),
            panel("streams", "tokens/s of all streams together, by streams"),
        ];
        plot::svg(title, &panels)
    }
}
