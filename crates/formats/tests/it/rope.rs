//! Rotary parameters as written by different tools, and as nobody should write them.

use crate::gguf_builder::Builder;
use freehold_formats::{Config, Error, Gguf, Metadata, RopeLayers, RopeParameters, RopeScaling};

fn from_config(json: &str) -> Result<RopeParameters, Error> {
    RopeParameters::from_config(&Config::parse("config.json", json.as_bytes())?, RopeLayers::All)
}

fn long_rope(factor: f64, attention_factor: Option<f64>) -> RopeScaling {
    RopeScaling::LongRope {
        short_factor: vec![1.0, 1.5],
        long_factor: vec![1.0, 4.0],
        factor,
        original_max_position_embeddings: 32,
        attention_factor,
    }
}

const LLAMA3: RopeScaling = RopeScaling::Llama3 {
    factor: 8.0,
    low_freq_factor: 1.0,
    high_freq_factor: 4.0,
    original_max_position_embeddings: 8192,
};

fn yarn(original_max_position_embeddings: u64, attention_factor: Option<f64>) -> RopeScaling {
    RopeScaling::Yarn {
        factor: 4.0,
        original_max_position_embeddings,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor,
        attention_multiplier: 1.0,
        mscale: None,
        mscale_all_dim: None,
        truncate: true,
    }
}

#[test]
fn both_styles_of_configuration_mean_the_same() {
    let llama3 = r#""factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192"#;
    for (json, theta, scaling, partial_rotary_factor) in [
        ("{}".into(), 1e4, RopeScaling::Default, 1.0),
        (r#"{"rope_theta":500000,"rope_scaling":null}"#.into(), 5e5, RopeScaling::Default, 1.0),
        (r#"{"rope_parameters":{"rope_theta":5e5,"rope_type":"default"}}"#.into(), 5e5, RopeScaling::Default, 1.0),
        (r#"{"rope_scaling":{"type":"linear","factor":2}}"#.into(), 1e4, RopeScaling::Linear { factor: 2.0 }, 1.0),
        (
            r#"{"rope_parameters":{"rope_type":"linear","factor":2.0}}"#.into(),
            1e4,
            RopeScaling::Linear { factor: 2.0 },
            1.0,
        ),
        (format!(r#"{{"rope_theta":5e5,"rope_scaling":{{"rope_type":"llama3",{llama3}}}}}"#), 5e5, LLAMA3, 1.0),
        (format!(r#"{{"rope_parameters":{{"rope_theta":5e5,"rope_type":"llama3",{llama3}}}}}"#), 5e5, LLAMA3, 1.0),
        (
            r#"{"rope_scaling":{"type":"yarn","factor":4.0,"original_max_position_embeddings":32768}}"#.into(),
            1e4,
            yarn(32768, None),
            1.0,
        ),
        (
            r#"{"max_position_embeddings":64,"rope_parameters":{"rope_type":"yarn","factor":4,"attention_factor":2}}"#
                .into(),
            1e4,
            yarn(64, Some(2.0)),
            1.0,
        ),
        (
            r#"{"max_position_embeddings":128,"original_max_position_embeddings":32,
                "rope_scaling":{"type":"su","short_factor":[1,1.5],"long_factor":[1,4]}}"#
                .into(),
            1e4,
            long_rope(4.0, None),
            1.0,
        ),
        (
            r#"{"max_position_embeddings":128,"rope_parameters":{"rope_type":"longrope","short_factor":[1,1.5],
                "long_factor":[1,4],"factor":2,"original_max_position_embeddings":32,"attention_factor":1.5}}"#
                .into(),
            1e4,
            long_rope(2.0, Some(1.5)),
            1.0,
        ),
        (r#"{"partial_rotary_factor":0.5}"#.into(), 1e4, RopeScaling::Default, 0.5),
        (r#"{"rope_parameters":{"partial_rotary_factor":0.25}}"#.into(), 1e4, RopeScaling::Default, 0.25),
    ] {
        let expected = RopeParameters { theta, scaling, partial_rotary_factor };
        assert_eq!(from_config(&json).unwrap_or_else(|error| panic!("{json}: {error}")), expected, "{json}");
    }
}

#[test]
fn a_configuration_that_cannot_be_meant_is_refused() {
    for (json, words) in [
        (r#"{"rope_theta":0}"#, ["rope_theta", "above 0"]),
        (r#"{"rope_theta":-1e4}"#, ["rope_theta", "above 0"]),
        (r#"{"rope_theta":1e999}"#, ["config.json", "number out of range"]),
        (r#"{"rope_theta":"1e4"}"#, ["rope_theta", "a number is needed"]),
        (r#"{"rope_scaling":"yarn"}"#, ["rope_scaling", "object"]),
        (r#"{"rope_scaling":{"type":"linear"}}"#, ["rope_scaling.factor", "missing"]),
        (r#"{"rope_scaling":{"type":"linear","factor":0}}"#, ["rope_scaling.factor", "above 0"]),
        (r#"{"rope_scaling":{"type":"yarn","factor":4}}"#, ["original_max_position_embeddings", "missing"]),
        (
            r#"{"rope_scaling":{"type":"yarn","factor":4,"original_max_position_embeddings":0}}"#,
            ["original_max_position_embeddings", "is 0"],
        ),
        (
            r#"{"rope_scaling":{"rope_type":"llama3","factor":8,"low_freq_factor":4,"high_freq_factor":4}}"#,
            ["high_freq_factor", "greater"],
        ),
        (r#"{"rope_scaling":{"rope_type":"llama3","factor":8}}"#, ["low_freq_factor", "missing"]),
        (r#"{"rope_scaling":{"type":"dynamic"}}"#, ["rope_type", "`dynamic` is not supported"]),
        (r#"{"rope_scaling":{"type":"longrope"}}"#, ["original_max_position_embeddings", "missing"]),
        (
            r#"{"original_max_position_embeddings":32,"rope_scaling":{"type":"longrope","short_factor":2}}"#,
            ["short_factor", "no list"],
        ),
        (
            r#"{"original_max_position_embeddings":32,"rope_scaling":{"type":"longrope","short_factor":[1,0]}}"#,
            ["short_factor", "above 0"],
        ),
        (r#"{"rope_parameters":{"full_attention":{"rope_theta":1e4}}}"#, ["rope_type", "kinds of layers"]),
        (r#"{"partial_rotary_factor":1.5}"#, ["partial_rotary_factor", "more than 1"]),
        (r#"{"partial_rotary_factor":0}"#, ["partial_rotary_factor", "above 0"]),
    ] {
        let text = from_config(json).unwrap_err().to_string();
        for word in words {
            assert!(text.contains(word), "{json}: `{text}` does not say `{word}`");
        }
    }
}

fn from_gguf(file: &Builder) -> Result<RopeParameters, Error> {
    RopeParameters::from_metadata(Gguf::from_bytes(file.build())?.metadata(), "llama", RopeLayers::All)
}

#[test]
fn kinds_of_layers_have_parameters_of_their_own() {
    let windowed = |theta_default| RopeLayers::Windowed { theta_default };
    let nested = r#"{"rope_parameters":{"full_attention":{"rope_theta":1e6,"rope_type":"linear","factor":8},
        "sliding_attention":{"rope_theta":2e4,"rope_type":"default"}}}"#;
    let flat = r#"{"rope_theta":1e6,"rope_local_base_freq":3e4,"rope_scaling":{"rope_type":"linear","factor":8}}"#;
    let plain = r#"{"rope_theta":1e6,"rope_scaling":{"rope_type":"linear","factor":8}}"#;
    let linear = RopeScaling::Linear { factor: 8.0 };
    for (json, layers, theta, scaling) in [
        (nested, RopeLayers::Full, 1e6, linear.clone()),
        (nested, windowed(Some(1e4)), 2e4, RopeScaling::Default),
        (flat, RopeLayers::Full, 1e6, linear.clone()),
        (flat, windowed(Some(1e4)), 3e4, RopeScaling::Default),
        (plain, windowed(Some(1e4)), 1e4, RopeScaling::Default),
        (plain, windowed(None), 1e6, RopeScaling::Default),
    ] {
        let config = Config::parse("config.json", json.as_bytes()).unwrap();
        let found = RopeParameters::from_config(&config, layers).unwrap();
        let expected = RopeParameters { theta, scaling, partial_rotary_factor: 1.0 };
        assert_eq!(found, expected, "{json} {layers:?}");
    }
    let file = || Builder::sound().str("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 8.0);
    let own = || file().f32("llama.rope.freq_base_swa", 2e4);
    for (file, layers, theta, scaling) in [
        (own(), RopeLayers::Full, 1e4, linear),
        (own(), windowed(Some(5.0)), 2e4, RopeScaling::Default),
        (file(), windowed(Some(5.0)), 5.0, RopeScaling::Default),
        (file(), windowed(None), 1e4, RopeScaling::Default),
    ] {
        let gguf = Gguf::from_bytes(file.build()).unwrap();
        let found = RopeParameters::from_metadata(gguf.metadata(), "llama", layers).unwrap();
        assert_eq!(found, RopeParameters { theta, scaling, partial_rotary_factor: 1.0 }, "{layers:?}");
    }
}

#[test]
fn gguf_keys_mean_the_same_parameters() {
    let sound = Builder::sound;
    let linear = RopeScaling::Linear { factor: 2.0 };
    let yarn_file = || sound().str("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4.0);
    let original = "llama.rope.scaling.original_context_length";
    for (file, scaling, partial_rotary_factor) in [
        (sound(), RopeScaling::Default, 1.0),
        (sound().str("llama.rope.scaling.type", "none"), RopeScaling::Default, 1.0),
        (sound().str("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 2.0), linear.clone(), 1.0),
        (sound().f32("llama.rope.scale_linear", 2.0), linear, 1.0),
        (yarn_file().u32(original, 32), yarn(32, None), 1.0),
        (yarn_file().u32("llama.context_length", 64), yarn(64, None), 1.0),
        (
            sound()
                .u32("llama.rope.dimension_count", 32)
                .u32("llama.embedding_length", 256)
                .u32("llama.attention.head_count", 4),
            RopeScaling::Default,
            0.5,
        ),
        (
            sound().u32("llama.rope.dimension_count", 64).u32("llama.attention.key_length", 64),
            RopeScaling::Default,
            1.0,
        ),
    ] {
        assert_eq!(from_gguf(&file).unwrap(), RopeParameters { theta: 1e4, scaling, partial_rotary_factor });
    }
    let factor = yarn_file().u32(original, 32).f32("llama.rope.scaling.attn_factor", 0.5);
    let scaling = from_gguf(&factor).unwrap().scaling;
    assert!(
        matches!(scaling, RopeScaling::Yarn { attention_multiplier: 0.5, attention_factor: None, .. }),
        "{scaling:?}"
    );
    let whole = yarn_file().u32(original, 32).f32("llama.rope.scaling.yarn_attn_factor", 0.5);
    assert_eq!(from_gguf(&whole).unwrap().scaling, yarn(32, Some(0.5)));
}

#[test]
fn gguf_keys_that_cannot_be_meant_are_refused() {
    let sound = Builder::sound;
    let rotated = |count| sound().u32("llama.rope.dimension_count", count).u32("llama.embedding_length", 256);
    let llama3 = |low, high, original| {
        let file = sound().f32("llama.rope.llama3.factor", 8.0).f32("llama.rope.llama3.low_freq_factor", low);
        file.f32("llama.rope.llama3.high_freq_factor", high).u32("llama.rope.llama3.original_context_length", original)
    };
    let no_theta = |theta| sound().set(|file| file.keys.remove(2).0.clear()).f32("llama.rope.freq_base", theta);
    for (file, words) in [
        (no_theta(0.0), ["rope.freq_base", "above 0"]),
        (no_theta(f32::NAN), ["rope.freq_base", "finite"]),
        (no_theta(f32::INFINITY), ["rope.freq_base", "finite"]),
        (sound().str("llama.rope.scaling.type", "linear"), ["rope.scaling.factor", "missing"]),
        (sound().f32("llama.rope.scaling.factor", 0.0), ["rope.scaling.factor", "above 0"]),
        (sound().str("llama.rope.scaling.type", "dynamic"), ["rope.scaling.type", "`dynamic`"]),
        (rotated(65).u32("llama.attention.head_count", 4), ["rope.dimension_count", "64 dimensions"]),
        (rotated(0).u32("llama.attention.head_count", 4), ["rope.dimension_count", "is 0"]),
        (rotated(64).u32("llama.attention.head_count", 0), ["attention.head_count", "is 0"]),
        (rotated(64), ["attention.head_count", "missing"]),
        (sound().f32("llama.rope.llama3.factor", 8.0), ["rope.llama3.low_freq_factor", "missing"]),
        (llama3(4.0, 4.0, 64), ["rope.llama3.high_freq_factor", "greater than"]),
        (llama3(1.0, 4.0, 0), ["rope.llama3.original_context_length", "is 0"]),
    ] {
        let text = from_gguf(&file).unwrap_err().to_string();
        for word in words {
            assert!(text.contains(word), "`{text}` does not say `{word}`");
        }
    }
}

#[test]
fn parameters_survive_as_gguf_keys() {
    for json in [
        r#"{"rope_theta": 5e5}"#,
        r#"{"rope_scaling": {"rope_type": "linear", "factor": 2.5}}"#,
        r#"{"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1,
            "high_freq_factor": 4, "original_max_position_embeddings": 8192}}"#,
        r#"{"rope_scaling": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 32, "beta_fast": 16,
            "beta_slow": 2}}"#,
    ] {
        let config = Config::parse("config.json", json.as_bytes()).unwrap();
        let parameters = RopeParameters::from_config(&config, RopeLayers::All).unwrap();
        let keys = parameters.gguf_keys(RopeLayers::All).into_iter();
        let metadata =
            Metadata::from_pairs(keys.map(|(key, value)| (format!("llama.{key}"), value)).collect()).unwrap();
        let read = RopeParameters::from_metadata(&metadata, "llama", RopeLayers::All).unwrap();
        assert_eq!(read, parameters, "{json}");
    }
}
