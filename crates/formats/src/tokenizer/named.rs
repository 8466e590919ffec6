//! The pre-tokenizers that GGUF files only name (`tokenizer.ggml.pre`), by the expressions of the tokenizers themselves.
//!
//! A name is what converters write for all tokenizers of the same rules. It is the only trace that the original's
//! normaliser and other settings leave in a GGUF file.

use super::expression::Expression;
use super::pretokenizer::{Behaviour, Step};
use super::{Normaliser, PreTokenizer};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const DIGIT: &str = r"\p{N}";
const DIGITS_3: &str = r"\p{N}{1,3}";
/// What BERT, and the library, take for punctuation: Unicode's, and ASCII's symbols.
pub(super) const PUNCTUATION: &str = r"[\p{P}$+<=>^`|~]";

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|…`, with what a number is.
macro_rules! cl100k {
    ($numbers:literal) => {
        concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|",
            $numbers,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

/// Words of GPT-4o's tokenizer: capitals, then small letters, then what follows a word.
macro_rules! o200k {
    ($contraction:literal, $numbers:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            $contraction,
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
            $contraction,
            "|",
            $numbers,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

const LLAMA3: &str = cl100k!(r"\p{N}{1,3}");
const QWEN2: &str = cl100k!(r"\p{N}");
const GPT4O: &str = o200k!("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", r"\p{N}{1,3}");
const TEKKEN: &str = o200k!("", r"\p{N}");
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const BAILING: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const EXAONE_MOE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+";
const MINICPM5: &str = cl100k!(r"\p{N}+");
const KIMI_K2: &str = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BLOOM: &str = " ?[^(\\s|[.,!?…。，、।۔،])]+";
const DEEPSEEK_CJK: &str = r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+";
const DEEPSEEK_V3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const DEEPSEEK_OLD_CJK: &str = r"[\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}]+";
const DEEPSEEK_LLM_PUNCTUATION: &str =
    r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+";
/// The letters that DeepSeek LLM's tokenizer lists: those with a case in Unicode 11, without Georgian's small ones, the
/// mathematical ones and a few more.
const DEEPSEEK_LLM_LETTERS: &str = concat!(
    r"\s?[",
    r"A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}",
    r"\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}",
    r"\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}",
    r"\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}",
    r"\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}",
    r"\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}",
    r"\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}",
    r"\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}",
    r"\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}",
    r"\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}",
    r"\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}",
    r"\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}",
    r"\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}",
    r"\x{1E900}-\x{1E943}",
    r"]+"
);
const CHAMELEON: [&str; 6] =
    ["<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )", DIGIT, PUNCTUATION, GPT2];

/// What a name stands for.
pub(super) struct Rules {
    pub(super) pre_tokenizer: PreTokenizer,
    pub(super) normaliser: Normaliser,
    pub(super) ignore_merges: bool,
    pub(super) add_bos: bool,
}

impl Rules {
    /// The rules that `pre` names.
    pub(super) fn named(pre: &str) -> Option<Self> {
        let mut rules = Self {
            pre_tokenizer: PreTokenizer::named(pre)?,
            normaliser: Normaliser::default(),
            ignore_merges: false,
            add_bos: false,
        };
        match pre {
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2"
            | "tekken" => (rules.ignore_merges, rules.add_bos) = (true, true),
            "minicpm5" => rules.ignore_merges = true,
            "chameleon" => rules.add_bos = true,
            // The tokenizers of Qwen 1.5 to 3.5 compose; others only share the cut.
            "qwen2" | "qwen35" => rules.normaliser = Normaliser::nfc(),
            _ => {}
        }
        Some(rules)
    }
}

/// Of each set of rules a name that files are given, the first that fits.
const NAMES: [&str; 20] = [
    "gpt-2",
    "llama-bpe",
    "dbrx",
    "qwen2",
    "deepseek-r1-qwen",
    "smollm",
    "gpt-4o",
    "tekken",
    "qwen35",
    "deepseek-llm",
    "deepseek-coder",
    "deepseek-v3",
    "kimi-k2",
    "bloom",
    "viking",
    "seed-coder",
    "bailingmoe",
    "exaone-moe",
    "minicpm5",
    "falcon",
];

impl Rules {
    /// A name of these rules; `None` where they have none.
    pub(super) fn name_of(
        pre_tokenizer: &PreTokenizer,
        normaliser: &Normaliser,
        ignore_merges: bool,
    ) -> Option<&'static str> {
        NAMES.into_iter().find(|name| {
            Self::named(name).is_some_and(|rules| {
                rules.pre_tokenizer.steps() == pre_tokenizer.steps()
                    && rules.normaliser.steps() == normaliser.steps()
                    && rules.ignore_merges == ignore_merges
            })
        })
    }
}

impl PreTokenizer {
    /// The pre-tokenizer of byte-level tokenizers that GGUF files call `pre`; `None` where the name is not known.
    pub fn named(pre: &str) -> Option<Self> {
        let expressions: &[&str] = match pre {
            "gpt-2" | "phi-2" | "gigachat" | "a.x-4.0" | "mellum" | "exaone4" | "mpt" | "olmo" | "jais"
            | "trillion" | "granite-docling" | "modern-bert" | "jina-es" | "jina-de" | "jina-v2-es" | "jina-v2-de"
            | "jina-v1-en" | "jina-v2-code" | "roberta-bpe" => &[GPT2],
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2"
            | "jina-v5-nano" | "dbrx" | "smaug-bpe" | "glm4" | "chatglm-bpe" => &[LLAMA3],
            "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" | "stablelm2" | "hunyuan" | "grok-2"
            | "solar-open" => &[QWEN2],
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" | "mellum2" => {
                &[DIGIT, GPT2]
            }
            "qwen35" => &[QWEN35],
            "deepseek-llm" => {
                &["[\r\n]", DEEPSEEK_LLM_LETTERS, DEEPSEEK_LLM_PUNCTUATION, r"\s+$", DEEPSEEK_OLD_CJK, DIGIT]
            }
            "deepseek-coder" => &["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_OLD_CJK, DIGIT],
            "deepseek-v3" | "hunyuan-dense" | "joyai-llm" | "hy_v4" => &[DIGITS_3, DEEPSEEK_CJK, DEEPSEEK_V3],
            "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => &[GPT4O],
            "tekken" => &[TEKKEN],
            "kimi-k2" => &[KIMI_K2],
            "bloom" | "poro-chat" | "gpt3-finnish" => &[BLOOM],
            "viking" => &[BLOOM, DIGIT],
            "seed-coder" => &[SEED_CODER],
            "bailingmoe" | "bailingmoe2" | "llada-moe" => &[BAILING],
            "exaone-moe" => &[EXAONE_MOE],
            "minicpm5" => &[DIGITS_3, MINICPM5],
            "chameleon" => &CHAMELEON,
            "falcon" => return Some(falcon()),
            _ => return None,
        };
        Some(Self::byte_level(expressions).expect("the expressions are known to be sound"))
    }

    /// How BERT cuts: at white space, and around punctuation.
    pub(super) fn bert() -> Self {
        Self::new(vec![cut(r"\s+", Behaviour::Removed), cut(PUNCTUATION, Behaviour::Isolated)])
    }
}

/// Falcon's tokenizer cuts numbers when bytes are written as characters already, of which some are numbers.
fn falcon() -> PreTokenizer {
    PreTokenizer::new(vec![
        cut(PUNCTUATION, Behaviour::Contiguous),
        cut(GPT2, Behaviour::Isolated),
        Step::ByteLevel,
        cut(r"\p{N}+", Behaviour::Isolated),
        cut("[0-9][0-9][0-9]", Behaviour::Isolated),
    ])
}

/// A cut by one of the expressions of this module.
pub(super) fn cut(expression: &'static str, behaviour: Behaviour) -> Step {
    let expression = Expression::new(expression).expect("the expressions are known to be sound");
    Step::Cut { expression, behaviour, invert: false }
}

/// The library's own expression, by which its `ByteLevel` step cuts.
pub(super) fn gpt2() -> Step {
    cut(GPT2, Behaviour::Isolated)
}
