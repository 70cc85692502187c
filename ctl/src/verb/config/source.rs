//! The files of a bundle as they lie in a directory: every .conf file in it, and nothing below it.

use std::io::Read as _;
use std::path::Path;

use fleetvisor_proto::fleet::BundleFile;

use crate::fleet::client::FleetError;

/// More than any bundle may have: what is larger is not even read.
const FILE_BYTES: u64 = 4 << 20;

/// The bundle's files, and names of what is none of them.
pub(super) fn files(path: &Path) -> Result<(Vec<BundleFile>, Vec<String>), FleetError> {
    let failed = |path: &Path, error: std::io::Error| {
        FleetError::Usage(format!("cannot read {}: {error}", path.display()))
    };
    let metadata = std::fs::metadata(path).map_err(|error| failed(path, error))?;
    let mut paths = Vec::new();
    let mut left_out = Vec::new();
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).map_err(|error| failed(path, error))? {
            let path = entry.map_err(|error| failed(path, error))?.path();
            let is_file = std::fs::metadata(&path).is_ok_and(|metadata| metadata.is_file());
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match path.extension().is_some_and(|extension| extension == "conf")
                && is_file
                && !name.starts_with('.')
            {
                true => paths.push(path),
                false => left_out.push(name),
            }
        }
        paths.sort();
        left_out.sort();
        if paths.is_empty() {
            return Err(FleetError::Usage(format!("{} has no .conf file", path.display())));
        }
    } else {
        paths.push(path.to_path_buf());
    }
    let read = |path: &std::path::PathBuf| {
        let mut text = Vec::new();
        let file = std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES).read_to_end(&mut text));
        file.map_err(|error| failed(path, error))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(BundleFile { name, text })
    };
    Ok((paths.iter().map(read).collect::<Result<_, FleetError>>()?, left_out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_gives_its_conf_files_and_says_what_else_is_there() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.conf", "a.conf", ".hidden.conf", "README", "a.conf~"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        std::fs::create_dir(folder.path().join("d.conf")).unwrap();
        let (found, left_out) = files(folder.path()).unwrap();
        let names: Vec<&str> = found.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["a.conf", "b.conf"]);
        assert_eq!(left_out, [".hidden.conf", "README", "a.conf~", "d.conf"]);
        let (one, _) = files(&folder.path().join("b.conf")).unwrap();
        assert_eq!((one[0].name.as_str(), one[0].text.as_slice()), ("b.conf", &b"b.conf"[..]));
        assert!(files(&folder.path().join("d.conf")).is_err());
        assert!(files(&folder.path().join("none")).is_err());
    }
}
