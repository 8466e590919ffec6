//! ERNIE 4.5 (Baidu), the dense models: a Llama whose heads have the rotated halves interleaved.

use super::Architecture;
use crate::decoder::Variant;
use crate::source::{Conventions, Interleaved};

pub(super) static ERNIE4_5: Architecture = Architecture {
    gguf: "ernie4_5",
    hugging_face: &["ernie4_5"],
    conventions: Conventions { tied: true, ..Conventions::LLAMA },
    variant: |source, config| Ok(Variant { interleaved: Interleaved::Everywhere, ..Variant::plain(source, config)? }),
};
