//! Quantised files: what they keep, that they load, and what is refused.

use freehold_base::Dtype;
use freehold_formats::{Checkpoint, Gguf, GgufWriter, TensorDescription, Value};
use freehold_kernels::{Compute, Isa};
use freehold_model::{Conversion, Encoding, Error, Mix, Model, Quantization};
use std::path::Path;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data");

fn quantized(checkpoint: &Checkpoint, mix: &str, requantize: bool, threads: usize) -> Result<Vec<u8>, Error> {
    let compute = Compute::new(Isa::best(), threads).unwrap();
    let mix = Mix::named(mix).unwrap();
    write(checkpoint, Quantization { mix, choice: &|_| None, importance: None, requantize }, &compute)
}

fn write(checkpoint: &Checkpoint, quantization: Quantization<'_>, compute: &Compute) -> Result<Vec<u8>, Error> {
    let (mut file, mut ignored) = (Vec::new(), |_| {});
    let encoding = Encoding::Quantized(quantization);
    Conversion::new(checkpoint, "golden", encoding, compute, &mut ignored)?.write(&mut file, &mut |_| {})?;
    Ok(file)
}

fn open(path: &str) -> Checkpoint {
    Checkpoint::open(&Path::new(DATA).join(path)).unwrap()
}

#[test]
fn every_mix_keeps_what_it_does_not_quantise_and_loads() {
    for name in ["qwen3_moe", "gemma3", "gpt_oss"] {
        let checkpoint = open(&format!("gguf/{name}.gguf"));
        let Checkpoint::Gguf(source) = &checkpoint else { panic!("{name} is a GGUF file") };
        for mix in Mix::ALL {
            let what = format!("{name}, {}", mix.name);
            let file = Gguf::from_bytes(quantized(&checkpoint, mix.name, false, 2).unwrap()).unwrap();
            for (key, value) in source.metadata().iter().filter(|(key, _)| *key != "general.file_type") {
                assert_eq!(file.metadata().get(key), Some(value), "{what}: {key}");
            }
            assert_eq!(file.tensors().len(), source.tensors().len(), "{what}");
            for (old, new) in source.tensors().zip(file.tensors()) {
                assert_eq!((old.name, old.shape), (new.name, new.shape), "{what}");
                let stays = old.shape.len() == 1 || !old.name.ends_with("weight") || old.name.contains("ffn_gate_inp");
                assert_eq!(stays, new.dtype == Dtype::F32, "{what}: {}", old.name);
                assert!(!stays || old.bytes == new.bytes, "{what}: {}", old.name);
            }
            Model::load(&Checkpoint::Gguf(file), &Compute::new(Isa::best(), 2).unwrap(), &mut |_| {}).unwrap();
        }
    }
}

#[test]
fn a_folder_and_its_file_and_any_number_of_threads_give_the_same_tensors() {
    for mix in ["q4_0", "q4_k_m", "iq4_nl"] {
        let [folder, file, alone] = [("golden/qwen3_moe", 2), ("gguf/qwen3_moe.gguf", 2), ("gguf/qwen3_moe.gguf", 1)]
            .map(|(path, threads)| Gguf::from_bytes(quantized(&open(path), mix, false, threads).unwrap()).unwrap());
        for tensor in folder.tensors() {
            for other in [&file, &alone] {
                let other = other.tensor(tensor.name).unwrap();
                assert!((tensor.dtype, tensor.bytes) == (other.dtype, other.bytes), "{mix}: {}", tensor.name);
            }
        }
        let file_type = folder.metadata().get("general.file_type");
        assert_eq!(file_type, file.metadata().get("general.file_type"), "{mix}");
        assert_eq!(folder.metadata().get("general.quantization_version"), Some(&Value::U32(2)), "{mix}");
    }
}

#[test]
fn what_is_refused() {
    let once = Gguf::from_bytes(quantized(&open("gguf/qwen3_moe.gguf"), "q8_0", false, 1).unwrap()).unwrap();
    let once = Checkpoint::Gguf(once);
    match quantized(&once, "q4_0", false, 1) {
        Err(Error::AlreadyQuantized { dtype: Dtype::Q8_0, .. }) => {}
        other => panic!("{:?}", other.map(|file| file.len())),
    }
    quantized(&once, "q4_0", true, 1).unwrap();
    // Nothing of it would change.
    quantized(&once, "q8_0", false, 1).unwrap();

    let Checkpoint::Gguf(source) = open("gguf/gemma3.gguf") else { panic!("it is a GGUF file") };
    for (broken, number) in [("blk.0.ffn_down.weight", f32::NAN), ("output_norm.weight", f32::INFINITY)] {
        let described: Vec<_> = source
            .tensors()
            .map(|tensor| TensorDescription {
                name: tensor.name.to_owned(),
                dtype: tensor.dtype,
                shape: tensor.shape.to_vec(),
            })
            .collect();
        let mut file = Vec::new();
        let writer = GgufWriter::new(source.metadata(), &described).unwrap();
        let written = writer.write(&mut file, |number_of_tensor, out| {
            let tensor = source.tensors().nth(number_of_tensor).unwrap();
            let mut bytes = tensor.bytes.to_vec();
            if tensor.name == broken {
                bytes[4..8].copy_from_slice(&number.to_le_bytes());
            }
            out.write_all(&bytes)
        });
        written.unwrap();
        let error = quantized(&Checkpoint::Gguf(Gguf::from_bytes(file).unwrap()), "q4_0", false, 1).unwrap_err();
        assert!(error.to_string().contains(broken), "{error}");
    }
}
