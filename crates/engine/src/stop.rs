//! Stop texts, found however the text is cut into tokens.

/// Finds stop texts in text that arrives in pieces, and holds back what might become one.
pub(crate) struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

/// What became of a piece of text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Released {
    /// This much is certain to be part of the answer.
    Text(String),
    /// The rest of the answer before a stop text.
    Stopped(String),
}

impl StopMatcher {
    /// None of the texts is empty.
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new() }
    }

    pub(crate) fn push(&mut self, text: &str) -> Released {
        if self.stops.is_empty() {
            return Released::Text(text.to_owned());
        }
        self.held.push_str(text);
        // Where two begin at one place it does not matter which: the answer ends there.
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return Released::Stopped(std::mem::take(&mut self.held));
        }
        let possible = |at: usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[at..]));
        let keep_from = self.held.char_indices().map(|(at, _)| at).find(|&at| possible(at)).unwrap_or(self.held.len());
        let held = self.held.split_off(keep_from);
        Released::Text(std::mem::replace(&mut self.held, held))
    }

    /// What was held back, once no more text comes.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer and whether it was stopped, for a text cut at `cuts`.
    fn run(text: &str, stops: &[&str], cuts: &[usize]) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops.iter().map(|&stop| stop.to_owned()).collect());
        let mut answer = String::new();
        let mut from = 0;
        for &to in cuts.iter().chain([&text.len()]) {
            match matcher.push(&text[from..to]) {
                Released::Text(text) => answer += &text,
                Released::Stopped(text) => return (answer + &text, true),
            }
            assert!(!stops.iter().any(|stop| answer.contains(stop)));
            from = to;
        }
        (answer + &matcher.finish(), false)
    }

    #[test]
    fn the_same_for_every_way_to_cut_the_text() {
        let cases: [(&str, &[&str], &str, bool); 6] = [
            ("one two three", &["two"], "one ", true),
            ("aaab", &["aab"], "a", true),
            ("abcabd", &["abd", "zz"], "abc", true),
            ("naïve café", &["é"], "naïve caf", true),
            ("no stop", &["stops"], "no stop", false),
            ("xyz", &["yz", "y"], "x", true),
        ];
        for (text, stops, answer, stopped) in cases {
            let places: Vec<usize> = (1..text.len()).filter(|&at| text.is_char_boundary(at)).collect();
            for mask in 0..1u32 << places.len() {
                let cuts: Vec<usize> =
                    places.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1).map(|(_, &at)| at).collect();
                assert_eq!(run(text, stops, &cuts), (answer.to_owned(), stopped), "{text:?} cut at {cuts:?}");
            }
        }
    }
}
