//! The formats as their users, and their attackers, meet them.

mod allocator;
mod chat_template;
mod gguf;
mod gguf_builder;
mod gguf_writer;
mod hugging_face;
mod imatrix;
mod rope;
mod safetensors;
mod tokenizer;
mod tokenizer_conversion;
mod tokenizer_files;
mod tokenizer_kinds;
mod tokenizer_text;
mod vocabulary;
