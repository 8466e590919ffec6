//! The formats as their users, and their attackers, meet them.

mod allocator;
mod chat_template;
mod gguf;
mod gguf_builder;
mod hugging_face;
mod rope;
mod safetensors;
mod tokenizer;
mod tokenizer_files;
mod tokenizer_kinds;
mod tokenizer_text;
mod vocabulary;
