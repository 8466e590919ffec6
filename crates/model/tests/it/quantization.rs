//! Quantised files: what they keep, that they load, and what is refused.

use freehold_base::Dtype;
use freehold_formats::{Checkpoint, Gguf, GgufWriter, Importance, ImportanceMatrix, TensorDescription, Value};
use freehold_kernels::{Compute, Isa, dequantize_vector};
use freehold_model::{Conversion, Encoding, Error, Mix, Model, Quantization};
use std::collections::BTreeMap;
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

/// The decoded rows of a tensor, for each expert.
fn experts(file: &Gguf, name: &str) -> Vec<Vec<f32>> {
    let tensor = file.tensor(name).unwrap();
    let numbers = dequantize_vector(tensor.dtype, tensor.numbers() as usize, tensor.bytes).unwrap();
    numbers.chunks_exact(numbers.len() / tensor.shape[0] as usize).map(<[f32]>::to_vec).collect()
}

#[test]
fn errors_go_where_they_count_least() {
    const NAME: &str = "blk.0.ffn_down_exps.weight";
    let checkpoint = open("gguf/qwen3_moe.gguf");
    let Checkpoint::Gguf(source) = &checkpoint else { panic!("it is a GGUF file") };
    let (count, cols) = (8, 32);
    // Each expert has a column of its own that counts more than all others.
    let squares = (0..count * cols).map(|place| if place % cols == 3 * (place / cols) { 1e4 } else { 1.0 }).collect();
    let of_tensor = |squares, counts| BTreeMap::from([(NAME.to_owned(), Importance::new(squares, counts).unwrap())]);
    let importance = ImportanceMatrix::new(of_tensor(squares, vec![1.0; count]), vec!["x".to_owned()], 7, 512);
    let compute = Compute::new(Isa::best(), 2).unwrap();
    let with = |mix: &str, importance| {
        let mix = Mix::named(mix).unwrap();
        write(&checkpoint, Quantization { mix, choice: &|_| None, importance, requantize: false }, &compute)
    };
    for mix in ["q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl"] {
        let files =
            [None, Some(&importance)].map(|importance| Gguf::from_bytes(with(mix, importance).unwrap()).unwrap());
        let [plain, weighed] = files.each_ref().map(|file| experts(file, NAME));
        for (expert, numbers) in experts(source, NAME).iter().enumerate() {
            let error = |found: &[f32]| {
                let column =
                    |numbers: &[f32]| numbers.iter().skip(3 * expert).step_by(cols).copied().collect::<Vec<_>>();
                column(numbers).iter().zip(column(found)).map(|(x, found)| (x - found).powi(2)).sum::<f32>()
            };
            let (plain, weighed) = (error(&plain[expert]), error(&weighed[expert]));
            assert!(weighed < 0.5 * plain, "{mix}, expert {expert}: {weighed} for {plain}");
        }
        let [plain, weighed] = &files;
        assert_eq!(weighed.metadata().u32("quantize.imatrix.chunks_count").unwrap(), 7, "{mix}");
        assert_eq!(plain.metadata().get("quantize.imatrix.chunks_count"), None, "{mix}");
        for tensor in plain.tensors().filter(|tensor| tensor.name != NAME) {
            assert!(weighed.tensor(tensor.name).unwrap().bytes == tensor.bytes, "{mix}: {}", tensor.name);
        }
    }
    let other = ImportanceMatrix::new(of_tensor(vec![1.0; cols], vec![1.0]), Vec::new(), 1, 512);
    match with("q4_0", Some(&other)) {
        Err(Error::OtherImportance { found: 32, expected: 256, .. }) => {}
        other => panic!("{:?}", other.map(|file| file.len())),
    }
}

#[test]
fn types_that_are_chosen_by_hand() {
    let checkpoint = open("gguf/qwen3_moe.gguf");
    let compute = Compute::new(Isa::best(), 2).unwrap();
    let choice = |name: &str| match name {
        "output.weight" => Some(Dtype::F32),
        "blk.1.attn_q.weight" => Some(Dtype::Q5_1),
        // Its rows are no whole blocks.
        "blk.0.attn_k.weight" => Some(Dtype::Q4_K),
        // No matrix in this sense.
        "output_norm.weight" | "blk.0.ffn_gate_inp.weight" => Some(Dtype::F16),
        _ => None,
    };
    for (mix, others) in [("q4_0", Dtype::Q4_0), ("f16", Dtype::F16)] {
        let quantization =
            Quantization { mix: Mix::named(mix).unwrap(), choice: &choice, importance: None, requantize: false };
        let file = Gguf::from_bytes(write(&checkpoint, quantization, &compute).unwrap()).unwrap();
        for (name, dtype) in [
            ("output.weight", Dtype::F32),
            ("blk.1.attn_q.weight", Dtype::Q5_1),
            ("blk.0.attn_k.weight", Dtype::Q5_0),
            ("output_norm.weight", Dtype::F32),
            ("blk.0.ffn_gate_inp.weight", Dtype::F32),
            ("blk.0.attn_q.weight", others),
        ] {
            assert_eq!(file.tensor(name).unwrap().dtype, dtype, "{mix}: {name}");
        }
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
