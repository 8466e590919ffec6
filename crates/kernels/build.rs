//! Sets `cfg(x86)` where the x86-64 overrides are compiled. `FREEHOLD_PORTABLE=1` leaves them out, so that the portable
//! path can be built and tested on an x86-64 machine.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(x86)");
    println!("cargo::rerun-if-env-changed=FREEHOLD_PORTABLE");
    let x86_64 = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    if x86_64 && std::env::var_os("FREEHOLD_PORTABLE").is_none() {
        println!("cargo::rustc-cfg=x86");
    }
}
