//! The key file.

use freehold_gateway::{AdminKey, GatewayError};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

#[test]
fn a_key_is_made_once_and_only_its_owner_can_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let keys: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| AdminKey::load_or_create(&path).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap().reveal().into()).collect()
    });
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    assert_eq!(AdminKey::load(&path).unwrap().reveal(), keys[0]);

    let random = keys[0].strip_prefix("fh-").unwrap();
    assert_eq!(random.len(), 43);
    assert!(random.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "something was left over");

    let other = AdminKey::load_or_create(&folder.path().join("other")).unwrap();
    assert_ne!(other.reveal(), keys[0]);
    assert!(!format!("{other:?}").contains(other.reveal()));
}

#[test]
fn a_file_that_others_can_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    AdminKey::load_or_create(&path).unwrap();
    for (mode, good) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o666, false), (0o620, false)] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        match AdminKey::load_or_create(&path) {
            Ok(_) => assert!(good, "{mode:o}"),
            Err(error) => {
                assert!(!good && matches!(error, GatewayError::KeyFileOpenToOthers { .. }), "{mode:o}: {error}");
                assert!(error.to_string().contains("chmod 600"));
            }
        }
    }
}

#[test]
fn a_file_that_holds_no_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let good = AdminKey::load_or_create(&path).unwrap().reveal().to_owned();
    for text in [
        Vec::new(),
        b"\n".to_vec(),
        b"fh-".to_vec(),
        good[..good.len() - 1].into(),
        format!("{good}A").into(),
        good.replace("fh-", "sk-").into(),
        format!("fh-{}", "!".repeat(43)).into(),
        b"\xff\xfe".to_vec(),
        vec![b'A'; 1 << 20],
    ] {
        fs::write(&path, &text).unwrap();
        let error = AdminKey::load_or_create(&path).unwrap_err();
        assert!(matches!(error, GatewayError::KeyFileMalformed { .. }), "{error}");
    }
    fs::write(&path, format!("{good}\r\n")).unwrap();
    assert_eq!(AdminKey::load(&path).unwrap().reveal(), good);
}

#[test]
fn a_missing_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = AdminKey::load_or_create(&folder.path().join("none/key")).unwrap_err();
    assert!(error.to_string().contains("none/key"), "{error}");
}
