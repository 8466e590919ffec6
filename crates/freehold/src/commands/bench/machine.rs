//! What a machine reads and multiplies in a second.

use super::buffer;
use crate::output;
use anyhow::{Context as _, Result};
use freehold_base::Dtype;
use freehold_base::units::format_bytes;
use freehold_engine::speed::{product_rate, read_rate};
use freehold_kernels::{Compute, Isa, Pool};
use serde_json::json;

/// Fits the second-level cache of every processor that the kernels are written for.
const CACHED_BYTES_PER_THREAD: usize = 128 << 10;
/// More than the last-level cache of all but a few servers.
const MEMORY_BYTES: usize = 512 << 20;
/// Passes over the small buffer in one measurement, so that it takes far longer than to wake the threads.
const CACHED_PASSES: usize = 512;

/// What is multiplied: weights of a type, and what people call its products.
const PRODUCTS: [(Dtype, &str); 2] = [(Dtype::Q8_0, "int8 products"), (Dtype::F32, "f32 multiply-adds")];

/// Bytes that a number of threads read in a second, over and over from a buffer.
struct Read {
    name: &'static str,
    buffer_bytes: usize,
    threads: usize,
    bytes_per_second: f64,
}

/// Products, each with its addition, that the kernels of an instruction set make in a second with weights of a type.
struct Products {
    isa: Isa,
    weights: Dtype,
    threads: usize,
    products_per_second: f64,
}

pub(super) fn run(json: bool) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut thread_counts = vec![1, cores];
    thread_counts.dedup();
    let isas: Vec<Isa> = Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect();
    let figures = thread_counts.len() * (2 + isas.len() * PRODUCTS.len());
    let bar = output::count_bar(figures as u64, "Measuring".to_owned());

    let mut reads = Vec::new();
    let mut products = Vec::new();
    let compute = Compute::new(Isa::Reference, 1).context("a thread cannot be started")?;
    let memory = buffer(&compute, MEMORY_BYTES)?;
    let all = memory.as_slice();
    for &threads in &thread_counts {
        let pool = Pool::new(threads).with_context(|| format!("{threads} threads cannot be started"))?;
        let cached = &all[..all.len().min(CACHED_BYTES_PER_THREAD / size_of::<u64>() * threads)];
        for (name, buffer, passes) in [("cache", cached, CACHED_PASSES), ("memory", all, 1)] {
            let bytes_per_second = read_rate(&pool, buffer, passes);
            reads.push(Read { name, buffer_bytes: size_of_val(buffer), threads, bytes_per_second });
            bar.inc(1);
        }
    }
    drop((memory, compute));
    for &isa in isas.iter().rev() {
        for &threads in &thread_counts {
            let compute = Compute::new(isa, threads).with_context(|| format!("{threads} threads cannot be started"))?;
            for (weights, _) in PRODUCTS {
                let products_per_second = product_rate(&compute, weights)?;
                products.push(Products { isa, weights, threads, products_per_second });
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    if json { print_json(cores, &reads, &products) } else { print(cores, &thread_counts, &reads, &products) }
}

fn print_json(cores: usize, reads: &[Read], products: &[Products]) -> Result<()> {
    let isa = |isa: Isa| json!({ "name": isa.to_string(), "available": isa.is_available() });
    let read = |read: &Read| {
        json!({
            "from": read.name,
            "buffer_bytes": read.buffer_bytes,
            "threads": read.threads,
            "bytes_per_second": read.bytes_per_second,
        })
    };
    let product = |product: &Products| {
        json!({
            "isa": product.isa.to_string(),
            "weights": product.weights.to_string(),
            "threads": product.threads,
            "products_per_second": product.products_per_second,
        })
    };
    output::print_json(&json!({
        "processor": processor(),
        "cores": cores,
        "isas": Isa::ALL.map(isa),
        "isa": Isa::best().to_string(),
        "reads": reads.iter().map(read).collect::<Vec<_>>(),
        "products": products.iter().map(product).collect::<Vec<_>>(),
    }))
}

fn print(cores: usize, thread_counts: &[usize], reads: &[Read], products: &[Products]) -> Result<()> {
    let isa = |isa: Isa| match isa {
        isa if isa == Isa::best() => format!("{isa} (used)"),
        isa if isa.is_available() => isa.to_string(),
        isa => format!("{isa} (not on this machine)"),
    };
    output::print_line(&format!("Processor         {}", processor().as_deref().unwrap_or("unknown")))?;
    output::print_line(&format!("Cores             {cores}"))?;
    output::print_line(&format!("Instruction sets  {}\n", Isa::ALL.map(isa).join(", ")))?;

    let mut header = vec!["IN A SECOND".to_owned()];
    header.extend(
        thread_counts.iter().map(|&count| if count == 1 { "1 THREAD".into() } else { format!("{count} THREADS") }),
    );
    let row = |name: String, cells: Vec<String>| [vec![name], cells].concat();
    let mut rows = Vec::new();
    for (name, what) in
        [("cache", "reading 128 KiB a thread, from a cache"), ("memory", "reading 512 MiB, from memory")]
    {
        let cells = reads.iter().filter(|read| read.name == name);
        rows.push(row(what.to_owned(), cells.map(|read| format_bytes(read.bytes_per_second as u64)).collect()));
    }
    for of_isa in products.chunks(thread_counts.len() * PRODUCTS.len()) {
        for (weights, what) in PRODUCTS {
            let cells = of_isa.iter().filter(|product| product.weights == weights);
            let cells = cells.map(|product| format!("{:.1} G", product.products_per_second / 1e9));
            rows.push(row(format!("{what}, {}", of_isa[0].isa), cells.collect()));
        }
    }
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    output::print_line(&output::table(&header, &rows))
}

/// What the system calls the processor, where it does.
fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
