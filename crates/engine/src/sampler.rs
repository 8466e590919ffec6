//! Choosing the next token from logits, as `docs/numerics.md` fixes it.

use crate::request::{Sampling, TokenLogprobs};
use freehold_base::random;
use freehold_kernels::{VectorKernels, math};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// The stream of random numbers that tokens are drawn with.
const TOKEN_STREAM: u64 = 0;

/// The sampler of one answer: its settings and what it has seen.
pub(crate) struct Sampler {
    settings: Sampling,
    /// The prompt's tokens, kept only where a penalty asks for them.
    prompt: BTreeSet<u32>,
    /// How often the answer holds each token, likewise.
    answer: BTreeMap<u32, u32>,
    adjusted: Vec<f32>,
    candidates: Vec<Candidate>,
}

#[derive(Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
    /// exp((logit − largest) / temperature).
    weight: f32,
}

/// Logit descending, id ascending. Adding +0 makes −0 its equal, as for the largest logit.
fn rank(a: &Candidate, b: &Candidate) -> Ordering {
    (b.logit + 0.0).total_cmp(&(a.logit + 0.0)).then(a.id.cmp(&b.id))
}

impl Sampler {
    pub(crate) fn new(settings: Sampling, prompt: &[u32]) -> Self {
        let prompt =
            if settings.repetition_penalty == 1.0 { BTreeSet::new() } else { prompt.iter().copied().collect() };
        Self { settings, prompt, answer: BTreeMap::new(), adjusted: Vec::new(), candidates: Vec::new() }
    }

    fn has_penalties(&self) -> bool {
        let Sampling { repetition_penalty, presence_penalty, frequency_penalty, .. } = self.settings;
        repetition_penalty != 1.0 || presence_penalty != 0.0 || frequency_penalty != 0.0
    }

    /// The token for `position` of the sequence.
    pub(crate) fn choose(&mut self, logits: &[f32], position: usize) -> u32 {
        let mut adjusted = std::mem::take(&mut self.adjusted);
        let token = if self.has_penalties() || !self.settings.logit_bias.is_empty() {
            adjusted.clear();
            adjusted.extend_from_slice(logits);
            self.adjust(&mut adjusted);
            self.draw(&adjusted, position)
        } else {
            self.draw(logits, position)
        };
        self.adjusted = adjusted;
        if self.has_penalties() {
            *self.answer.entry(token).or_insert(0) += 1;
        }
        token
    }

    fn adjust(&self, logits: &mut [f32]) {
        let settings = &self.settings;
        if settings.repetition_penalty != 1.0 {
            for &id in self.prompt.iter().chain(self.answer.keys().filter(|id| !self.prompt.contains(id))) {
                if let Some(logit) = logits.get_mut(id as usize) {
                    *logit = if *logit > 0.0 {
                        *logit / settings.repetition_penalty
                    } else {
                        *logit * settings.repetition_penalty
                    };
                }
            }
        }
        for (&id, &count) in &self.answer {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit -= settings.presence_penalty + settings.frequency_penalty * count as f32;
            }
        }
        for &(id, bias) in &settings.logit_bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
    }

    fn draw(&mut self, logits: &[f32], position: usize) -> u32 {
        let best = argmax(logits);
        if self.settings.temperature == 0.0 || self.settings.top_k == 1 {
            return best as u32;
        }
        self.keep(logits, logits[best]);
        let candidates = &self.candidates;
        let kept: f64 = candidates.iter().fold(0.0, |sum, candidate| sum + f64::from(candidate.weight));
        let target = random::uniform(self.settings.seed, TOKEN_STREAM, position as u64) * kept;
        let mut sum = 0.0f64;
        for candidate in candidates {
            sum += f64::from(candidate.weight);
            if sum > target {
                return candidate.id;
            }
        }
        candidates.last().map_or(best as u32, |candidate| candidate.id)
    }

    /// Makes `candidates` the tokens that the filters keep, the most probable first.
    fn keep(&mut self, logits: &[f32], largest: f32) {
        let Self { settings, candidates, .. } = self;
        candidates.clear();
        candidates.extend(logits.iter().enumerate().map(|(id, &logit)| Candidate {
            id: id as u32,
            logit,
            weight: 0.0,
        }));
        if settings.top_k > 0 && settings.top_k < candidates.len() {
            candidates.select_nth_unstable_by(settings.top_k - 1, rank);
            candidates.truncate(settings.top_k);
            candidates.sort_unstable_by_key(|candidate| candidate.id);
        }
        let mut total = 0.0f64;
        for candidate in candidates.iter_mut() {
            // The difference first: a tiny temperature makes it −∞, and never ∞ − ∞.
            let difference = candidate.logit - largest;
            let is_largest = candidate.logit == largest;
            candidate.weight = if is_largest { 1.0 } else { math::exp(difference / settings.temperature) };
            total += f64::from(candidate.weight);
        }
        // The most probable one has weight 1, so this is the share of it; what has no weight is never drawn.
        candidates.retain(|candidate| candidate.weight > 0.0 && candidate.weight >= settings.min_p);
        candidates.sort_unstable_by(rank);
        if settings.top_p < 1.0 {
            let wanted = f64::from(settings.top_p) * total;
            let mut sum = 0.0f64;
            let reached = candidates.iter().position(|candidate| {
                sum += f64::from(candidate.weight);
                sum >= wanted
            });
            candidates.truncate(reached.map_or(candidates.len(), |index| index + 1));
        }
    }
}

/// Whether none of the logits is NaN or infinite.
pub(crate) fn are_finite(logits: &[f32]) -> bool {
    // Not by `all`, which could stop early and so keeps the compiler from taking many at once.
    logits.iter().fold(true, |finite, logit| finite & logit.is_finite())
}

/// The index of the largest logit, the lowest of equals.
pub(crate) fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = id;
        }
    }
    best
}

/// Log-probabilities of the model's own distribution: of `chosen`, and of the `top` most probable tokens.
pub(crate) fn log_probabilities(vector: VectorKernels, logits: &[f32], chosen: u32, top: usize) -> TokenLogprobs {
    let normaliser = vector.log_sum_exp(logits);
    let mut best: Vec<Candidate> = Vec::new();
    if top > 0 {
        best.extend(logits.iter().enumerate().map(|(id, &logit)| Candidate { id: id as u32, logit, weight: 0.0 }));
        if top < best.len() {
            best.select_nth_unstable_by(top - 1, rank);
            best.truncate(top);
        }
        best.sort_unstable_by(rank);
    }
    TokenLogprobs {
        chosen: logits[chosen as usize] - normaliser,
        top: best.into_iter().map(|candidate| (candidate.id, candidate.logit - normaliser)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    const LOGITS: [f32; 6] = [1.0, 3.0, 2.0, 3.0, -1.0, 0.0];

    fn draws(settings: &Sampling, logits: &[f32]) -> BTreeSet<u32> {
        (0..2000).map(|position| Sampler::new(settings.clone(), &[0, 1]).choose(logits, position)).collect()
    }

    fn with(change: impl Fn(&mut Sampling)) -> Sampling {
        let mut settings = Sampling { temperature: 1.0, seed: 7, ..Sampling::default() };
        change(&mut settings);
        settings
    }

    #[test]
    fn filters_keep_the_tokens_that_they_should() {
        let all: &[u32] = &[0, 1, 2, 3, 4, 5];
        let cases: [(&str, Sampling, &[u32]); 13] = [
            ("greedy takes the lower of two equals", with(|s| s.temperature = 0.0), &[1]),
            ("no filter", with(|_| {}), all),
            ("top-k 1", with(|s| s.top_k = 1), &[1]),
            ("top-k 2", with(|s| s.top_k = 2), &[1, 3]),
            ("top-k 3", with(|s| s.top_k = 3), &[1, 2, 3]),
            ("top-k above the vocabulary", with(|s| s.top_k = usize::MAX), all),
            ("top-p below the first", with(|s| s.top_p = 0.1), &[1]),
            // Shares: 0.40, 0.40, 0.15, 0.05, 0.02, 0.007.
            ("top-p over two", with(|s| s.top_p = 0.7), &[1, 3]),
            ("min-p keeps what has a third of the best", with(|s| s.min_p = 0.3), &[1, 2, 3]),
            ("a tiny temperature", with(|s| s.temperature = 1e-45), &[1, 3]),
            ("bias forbids", with(|s| (s.logit_bias, s.top_k) = (vec![(1, -100.0), (3, -100.0)], 1)), &[2]),
            ("bias beyond the vocabulary is nothing", with(|s| (s.logit_bias, s.top_k) = (vec![(99, 5.0)], 1)), &[1]),
            ("repetition penalty counts the prompt", with(|s| (s.repetition_penalty, s.top_k) = (2.0, 1)), &[3]),
        ];
        for (name, settings, expected) in cases {
            assert_eq!(draws(&settings, &LOGITS).into_iter().collect::<Vec<_>>(), expected, "{name}");
        }
    }

    fn any_settings(chance: &mut Chance) -> Sampling {
        Sampling {
            temperature: chance.one_of(&[0.0, 1e-3, 0.3, 1.0, 1.0, 1.7]),
            top_k: chance.one_of(&[0, 0, 1, 3, 10, 100]),
            top_p: chance.one_of(&[0.0, 0.5, 0.9, 1.0, 1.0]),
            min_p: chance.one_of(&[0.0, 0.0, 0.05, 0.5, 1.0]),
            repetition_penalty: chance.one_of(&[1.0, 1.0, 0.7, 1.3]),
            presence_penalty: chance.one_of(&[0.0, 0.5, -1.0]),
            frequency_penalty: chance.one_of(&[0.0, 0.25]),
            logit_bias: chance.one_of(&[&[][..], &[(0, -100.0)], &[(0, 1.5), (2, -0.5)]]).to_vec(),
            seed: chance.below(1 << 20) as u64,
        }
    }

    /// In steps of a quarter, so that some are equal, or of whatever size.
    fn any_logits(chance: &mut Chance, vocabulary: usize) -> Vec<f32> {
        let steps = chance.one_of(&[32, 1 << 20]);
        (0..vocabulary).map(|_| chance.below(steps + 1) as f32 * (8.0 / steps as f32) - 4.0).collect()
    }

    /// Probabilities of the tokens kept, the most probable first, from the definition in `docs/numerics.md`, and whether a
    /// number is so close to a filter's edge that rounding may decide.
    fn by_definition(settings: &Sampling, prompt: &[u32], answer: &[u32], logits: &[f32]) -> (Vec<(u32, f64)>, bool) {
        let mut tokens: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        for (id, logit) in &mut tokens {
            let count = answer.iter().filter(|seen| *seen == id).count();
            if count > 0 || prompt.contains(id) {
                let penalty = settings.repetition_penalty;
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
            if count > 0 {
                *logit -= settings.presence_penalty + settings.frequency_penalty * count as f32;
            }
            *logit += settings.logit_bias.iter().find(|(biased, _)| biased == id).map_or(0.0, |(_, bias)| *bias);
        }
        tokens.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
        let top_k = if settings.temperature == 0.0 { 1 } else { settings.top_k };
        tokens.truncate(if top_k == 0 { tokens.len() } else { top_k });
        let exponent = |logit: f32| f64::from(logit - tokens[0].1) / f64::from(settings.temperature);
        let exponents: Vec<f64> =
            tokens.iter().map(|&(_, logit)| if top_k == 1 { 0.0 } else { exponent(logit) }).collect();
        let weights: Vec<f64> = exponents.iter().map(|exponent| exponent.exp()).collect();
        let total: f64 = weights.iter().sum();
        let (min_p, top_p) = (f64::from(settings.min_p), f64::from(settings.top_p));
        // From here on exp is 0 in binary32.
        let zero = -87.33654;
        let (mut kept, mut sum, mut is_close) = (Vec::new(), 0.0, false);
        for ((&(id, _), &weight), exponent) in tokens.iter().zip(&weights).zip(exponents) {
            let reached = top_p < 1.0 && !kept.is_empty() && sum >= top_p * total;
            is_close |= (weight != min_p && (weight - min_p).abs() < 1e-5 * min_p)
                || (exponent - zero).abs() < 1e-3
                || (top_p < 1.0 && (sum - top_p * total).abs() < 1e-5 * total && sum > 0.0);
            if weight >= min_p && exponent > zero && !reached {
                kept.push((id, weight));
                sum += weight;
            }
        }
        kept.iter_mut().for_each(|(_, weight)| *weight /= sum);
        (kept, is_close)
    }

    #[test]
    fn what_is_chosen_is_what_the_definition_says() {
        let (mut compared, mut left_out) = (0, 0);
        for seed in 0..600 {
            let mut chance = Chance::new(seed);
            let vocabulary = 1 + chance.below(40);
            let settings = any_settings(&mut chance);
            let prompt: Vec<u32> = (0..chance.below(6)).map(|_| chance.below(vocabulary) as u32).collect();
            let mut sampler = Sampler::new(settings.clone(), &prompt);
            let mut answer = Vec::new();
            for position in 0..20 {
                let logits = any_logits(&mut chance, vocabulary);
                let (expected, is_close) = by_definition(&settings, &prompt, &answer, &logits);
                let chosen = sampler.choose(&logits, position);
                answer.push(chosen);
                let uniform = random::uniform(settings.seed, TOKEN_STREAM, position as u64);
                let ends = expected.iter().scan(0.0, |sum, (_, probability)| {
                    *sum += probability;
                    Some(*sum)
                });
                let ends: Vec<f64> = ends.collect();
                if is_close || ends.iter().any(|end| (end - uniform).abs() < 1e-5) {
                    left_out += 1;
                    continue;
                }
                compared += 1;
                let drawn = ends.iter().position(|&end| end > uniform).unwrap();
                assert_eq!(chosen, expected[drawn].0, "seed {seed}, position {position}, {settings:?}");
                if settings.temperature == 0.0 || settings.top_k == 1 {
                    continue;
                }
                let kept: f64 = sampler.candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
                assert_eq!(sampler.candidates.len(), expected.len(), "seed {seed}, position {position}, {settings:?}");
                for (candidate, &(id, probability)) in sampler.candidates.iter().zip(&expected) {
                    let found = f64::from(candidate.weight) / kept;
                    assert_eq!(candidate.id, id, "seed {seed}, position {position}, {settings:?}");
                    assert!((found / probability - 1.0).abs() < 1e-4, "{found} for {probability}: {settings:?}");
                }
            }
        }
        assert!(compared > 100 * left_out, "{compared} compared, {left_out} left out");
    }

    // What `scripts/cpu_1` made of `docs/numerics.md`.
    #[test]
    fn the_contracts_vectors() {
        use serde_json::Value;
        let vectors: Value = serde_json::from_str(include_str!("../../../tests/data/cpu-1/sampling.json")).unwrap();
        let numbers = |value: &Value| -> Vec<f32> {
            let words = value.as_str().unwrap().split(' ');
            words.map(|word| f32::from_bits(u32::from_str_radix(word, 16).unwrap())).collect()
        };
        let cases = vectors["choices"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let setting = |name: &str| numbers(&case[name])[0];
            let list = |name: &str| case[name].as_array().unwrap().iter();
            let id = |value: &Value| value.as_u64().unwrap() as u32;
            let settings = Sampling {
                temperature: setting("temperature"),
                top_k: id(&case["top_k"]) as usize,
                top_p: setting("top_p"),
                min_p: setting("min_p"),
                repetition_penalty: setting("repetition_penalty"),
                presence_penalty: setting("presence_penalty"),
                frequency_penalty: setting("frequency_penalty"),
                logit_bias: list("logit_bias").map(|pair| (id(&pair[0]), numbers(&pair[1])[0])).collect(),
                seed: case["seed"].as_str().unwrap().parse().unwrap(),
            };
            let mut sampler = Sampler::new(settings, &list("prompt").map(id).collect::<Vec<_>>());
            for token in list("answer").map(id) {
                *sampler.answer.entry(token).or_insert(0) += 1;
            }
            let logits = numbers(&case["logits"]);
            let token = sampler.choose(&logits, id(&case["position"]) as usize);
            assert_eq!(token, id(&case["token"]), "{case}");
            let vector = VectorKernels::new(freehold_kernels::Isa::best());
            let log_probability = log_probabilities(vector, &logits, token, 0).chosen;
            assert_eq!(log_probability.to_bits(), setting("log_probability").to_bits(), "{case}");
        }
    }

    #[test]
    fn zeros_of_both_signs_are_equals() {
        let settings = with(|s| s.top_k = 2);
        assert_eq!(draws(&settings, &[-0.0, 0.0, -1.0, 0.0]).into_iter().collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let settings = with(|_| {});
        let mut counts = [0.0f64; 6];
        for position in 0..20_000 {
            counts[Sampler::new(settings.clone(), &[]).choose(&LOGITS, position) as usize] += 1.0 / 20_000.0;
        }
        let total: f64 = LOGITS.iter().map(|&logit| f64::from(logit).exp()).sum();
        for (count, &logit) in counts.iter().zip(&LOGITS) {
            // Five standard deviations of a share measured 20,000 times.
            assert!((count - f64::from(logit).exp() / total).abs() < 0.018, "{counts:?}");
        }
    }

    #[test]
    fn penalties_of_the_answer_add_up() {
        let mut sampler =
            Sampler::new(Sampling { frequency_penalty: 0.6, presence_penalty: 0.1, ..Sampling::default() }, &[]);
        let chosen: Vec<u32> = (0..5).map(|position| sampler.choose(&LOGITS, position)).collect();
        // 1 falls to 2.3, 3 to 2.3, 1 to 1.7, 3 to 1.7, then 2 leads.
        assert_eq!(chosen, [1, 3, 1, 3, 2]);
    }

    #[test]
    fn log_probabilities_are_of_the_raw_distribution() {
        let vector = VectorKernels::new(freehold_kernels::Isa::Reference);
        let result = log_probabilities(vector, &LOGITS, 2, 3);
        let normaliser = LOGITS.iter().map(|&logit| f64::from(logit).exp()).sum::<f64>().ln();
        let close = |found: f32, logit: f64| assert!((f64::from(found) - (logit - normaliser)).abs() < 1e-5);
        close(result.chosen, 2.0);
        assert_eq!(result.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 3, 2]);
        close(result.top[0].1, 3.0);
        assert!(log_probabilities(vector, &LOGITS, 0, 99).top.len() == 6);
    }
}
