//! Hunyuan (Tencent), the dense models: a Llama with norms over each head of q and k after rope.

use super::Architecture;
use crate::blocks::HeadNorms;
use crate::decoder::Variant;
use crate::source::Conventions;

pub(super) static HUNYUAN_DENSE: Architecture = Architecture {
    gguf: "hunyuan-dense",
    hugging_face: &["hunyuan_v1_dense"],
    conventions: Conventions {
        names: &[("attn_q_norm", "self_attn.query_layernorm"), ("attn_k_norm", "self_attn.key_layernorm")],
        ..Conventions::LLAMA
    },
    variant: |source, config| Ok(Variant { head_norms: HeadNorms::EachRotatedHead, ..Variant::plain(source, config)? }),
};
