//! `init`: makes a controller's directory. Everything is made aside and moved into place at the end, so a
//! directory is either as it was or whole.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use fleetvisor_proto::principal::Role;

use crate::layout::Layout;
use crate::pki::Authority;
use crate::store::sled::SledStore;

const ADMIN: &str = "admin";
const ALWAYS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
const STAGING: &str = ".init";

/// Make the certificate authority, the controller's certificate, an empty store and an admin's identity
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory to make them in, which must not have been initialised before
    #[arg(long)]
    dir: PathBuf,

    /// DNS name or IP address that hosts and operators dial (may be repeated); localhost, 127.0.0.1 and
    /// ::1 are always included
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
}

pub(crate) fn init(args: &Args) -> anyhow::Result<()> {
    let layout = Layout::new(&args.dir);
    for path in layout.all() {
        if path.exists() {
            bail!(
                "{} exists: this directory has been initialised, and nothing is overwritten",
                path.display()
            );
        }
    }
    let made_dir = make_dir(&args.dir).with_context(|| format!("cannot make {}", args.dir.display()))?;
    let staging = args.dir.join(STAGING);
    // What an interrupted init left behind is ours, and complete nowhere.
    let result = remove_if_there(&staging)
        .with_context(|| format!("cannot remove {}", staging.display()))
        .and_then(|()| make(&layout, &Layout::new(&staging), &args.names));
    // Best effort: the error that is reported is the one that matters.
    let _ = remove_if_there(&staging);
    if result.is_err() && made_dir {
        let _ = fs::remove_dir(&args.dir);
    }
    result?;
    print_result(&layout, &names(&args.names));
    Ok(())
}

fn make(layout: &Layout, staging: &Layout, extra: &[String]) -> anyhow::Result<()> {
    make_dir(staging.dir()).with_context(|| format!("cannot make {}", staging.dir().display()))?;
    let authority = Authority::create()?;
    authority.save(&staging.ca())?;
    authority.server(&names(extra))?.save(&staging.server())?;
    authority.operator(Role::Admin, ADMIN)?.save(&staging.admin())?;
    drop(SledStore::create(&staging.store())?);
    for (from, to) in staging.all().iter().zip(layout.all()) {
        fs::rename(from, &to).with_context(|| format!("cannot make {}", to.display()))?;
    }
    File::open(layout.dir())
        .and_then(|dir| dir.sync_all())
        .with_context(|| format!("cannot write {}", layout.dir().display()))
}

fn names(extra: &[String]) -> Vec<String> {
    let mut names: Vec<String> = ALWAYS.map(str::to_owned).to_vec();
    for name in extra {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// Whether it had to be made; its parents are, too.
fn make_dir(dir: &Path) -> io::Result<bool> {
    if dir.is_dir() {
        return Ok(false);
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    Ok(true)
}

fn remove_if_there(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

fn print_result(layout: &Layout, names: &[String]) {
    let dir = layout.dir().display();
    println!("Made in {dir}:");
    println!("  ca/      the fleet's certificate authority; keep ca.key secret and backed up");
    println!("  server/  the controller's certificate, for {}", names.join(", "));
    println!("  store/   the store, empty");
    println!("  admin/   the identity of operator {ADMIN} (role admin, valid for a year)");
    println!();
    println!("Next:");
    println!("  fleetvisor-controller run --dir {dir}");
    println!("  export FLEETVISOR_CONTROLLER=127.0.0.1:7443 FLEETVISOR_IDENTITY={dir}/admin");
    println!("  ctl host token --ttl 1h");
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use fleetvisor_proto::identity::Identity;
    use fleetvisor_proto::principal::Principal;

    use super::*;

    fn args(dir: &Path, names: &[&str]) -> Args {
        Args { dir: dir.to_owned(), names: names.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn everything_is_made_once_with_strict_modes() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("c");
        init(&args(&dir, &["controller.example.org"])).unwrap();
        let layout = Layout::new(&dir);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for path in layout.all().iter().chain([&dir]) {
            assert_eq!(mode(path), 0o700, "{}", path.display());
        }
        assert_eq!(mode(&layout.ca().join("ca.key")), 0o600);
        let admin = Identity::load(&layout.admin()).unwrap();
        assert_eq!(
            admin.principal().unwrap(),
            Principal::Operator { role: Role::Admin, name: "admin".to_owned() }
        );
        let server = Identity::load(&layout.server()).unwrap();
        assert_eq!(server.principal().unwrap(), Principal::Controller);
        drop(SledStore::open(&layout.store()).unwrap());
        assert!(!dir.join(STAGING).exists());

        let before = fs::read(layout.ca().join("ca.key")).unwrap();
        let err = init(&args(&dir, &[])).unwrap_err().to_string();
        assert!(err.contains("nothing is overwritten"), "{err}");
        assert_eq!(fs::read(layout.ca().join("ca.key")).unwrap(), before);
    }

    #[test]
    fn a_bad_name_leaves_nothing_behind() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("c");
        let err = init(&args(&dir, &["not a name"])).unwrap_err().to_string();
        assert!(err.contains("not a name"), "{err}");
        assert!(!dir.exists());
    }
}
