//! `init`: makes a controller's directory. Everything is made aside and moved into place at the end, so a
//! directory is either as it was or whole.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use fleetvisor_model::selector::Selector;
use fleetvisor_proto::identity::Identity;
use fleetvisor_proto::principal::Role;
use fleetvisor_proto::tls;

use crate::audit::{Audit, Entry};
use crate::grant::Grant;
use crate::layout::Layout;
use crate::operators;
use crate::pki::Authority;
use crate::records::{self, OperatorRecord};
use crate::store::Transaction;
use crate::store::sled::SledStore;

const ADMIN: &str = "admin";
const ALWAYS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Who made the first operator, in its records.
const BY: &str = "init";
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

    /// Certificate (PEM) of a CA of your own to sign with, best one for this fleet alone: whatever it signs gets
    /// as far as the handshake. Everybody trusts it as it is, whoever signed it
    #[arg(long, value_name = "FILE", requires = "ca_key")]
    ca_cert: Option<PathBuf>,

    /// Its private key (PEM), which is copied to DIR/ca
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    ca_key: Option<PathBuf>,

    /// Certificate chain (PEM) of the controller, issued by that CA for each --name, instead of one made here
    #[arg(long, value_name = "FILE", requires_all = ["server_key", "ca_cert", "names"])]
    server_cert: Option<PathBuf>,

    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "server_cert")]
    server_key: Option<PathBuf>,
}

impl Args {
    #[cfg(test)]
    pub(crate) fn for_test(dir: &Path) -> Args {
        let (ca_cert, ca_key, server_cert, server_key) = (None, None, None, None);
        Args { dir: dir.to_owned(), names: Vec::new(), ca_cert, ca_key, server_cert, server_key }
    }
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
        .and_then(|()| make(&layout, &Layout::new(&staging), args));
    // Best effort: the error that is reported is the one that matters.
    let _ = remove_if_there(&staging);
    if result.is_err() && made_dir {
        let _ = fs::remove_dir(&args.dir);
    }
    result?;
    print_result(&layout, args);
    Ok(())
}

fn make(layout: &Layout, staging: &Layout, args: &Args) -> anyhow::Result<()> {
    make_dir(staging.dir()).with_context(|| format!("cannot make {}", staging.dir().display()))?;
    let authority = match (&args.ca_cert, &args.ca_key) {
        (Some(certificate), Some(key)) => Authority::read(certificate, key)?,
        _ => Authority::create()?,
    };
    authority.save(&staging.ca())?;
    let server = match (&args.server_cert, &args.server_key) {
        (Some(chain), Some(key)) => issued(&authority, chain, key, &args.names)?,
        _ => authority.server(&names(&args.names))?,
    };
    server.save(&staging.server())?;
    let grant = Grant::new()?;
    let admin = authority.operator(Role::Admin, ADMIN, grant)?;
    admin.save(&staging.admin())?;
    let (_, until) = admin.validity();
    let record = operators::record(Role::Admin, &Selector::default(), grant, until, BY.to_owned());
    register(SledStore::create(&staging.store())?, &record)?;
    for (from, to) in staging.all().iter().zip(layout.all()) {
        fs::rename(from, &to).with_context(|| format!("cannot make {}", to.display()))?;
    }
    File::open(layout.dir())
        .and_then(|dir| dir.sync_all())
        .with_context(|| format!("cannot write {}", layout.dir().display()))
}

/// A controller's certificate that somebody else issued, once a client would trust it for each of the names.
fn issued(authority: &Authority, chain: &Path, key: &Path, names: &[String]) -> anyhow::Result<Identity> {
    let read =
        |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let identity = Identity::new(authority.ca().to_owned(), read(chain)?, read(key)?)
        .with_context(|| format!("{} cannot be used", chain.display()))?;
    for name in names {
        tls::check_server(&identity, name)
            .with_context(|| format!("{}: whoever dials {name} would not trust it", chain.display()))?;
    }
    Ok(identity)
}

/// The store's first record: that there is an admin.
fn register(store: SledStore, admin: &OperatorRecord) -> anyhow::Result<()> {
    let put = Transaction::default().put(records::operator_key(ADMIN), records::encode(admin));
    let entry = Entry::new(BY, "operator.add", format!("operator {ADMIN}")).detail("role admin");
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(Audit::new(Arc::new(store)).commit(entry, put))?;
    Ok(())
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

fn print_result(layout: &Layout, args: &Args) {
    let names = if args.server_cert.is_some() { args.names.clone() } else { names(&args.names) };
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

    use fleetvisor_proto::principal::Principal;

    use super::*;

    fn args(dir: &Path, names: &[&str]) -> Args {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Args { names, ..Args::for_test(dir) }
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
    fn a_ca_and_a_server_certificate_of_the_users_own_are_taken_when_they_fit() {
        let parent = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = parent.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let theirs = Authority::create().unwrap();
        theirs.save(&parent.path().join("theirs")).unwrap();
        let server = theirs.server(&["c.example.org".to_owned()]).unwrap();
        server.save(&parent.path().join("server")).unwrap();
        let with = |dir: &str, names: &[&str], authority: &str, server: Option<&str>| Args {
            ca_cert: Some(parent.path().join(authority).join("ca.crt")),
            ca_key: Some(parent.path().join(authority).join("ca.key")),
            server_cert: server.map(|server| parent.path().join(server).join("tls.crt")),
            server_key: server.map(|server| parent.path().join(server).join("tls.key")),
            ..args(&parent.path().join(dir), names)
        };
        init(&with("a", &["c.example.org"], "theirs", Some("server"))).unwrap();
        let taken = Identity::load(&Layout::new(&parent.path().join("a")).server()).unwrap();
        assert!(taken.presented() == server.presented());
        let admin = Identity::load(&Layout::new(&parent.path().join("a")).admin()).unwrap();
        assert_eq!(admin.ca_fingerprint(), theirs.fingerprint());

        let other = with("b", &["d.example.org"], "theirs", Some("server"));
        let err = init(&other).unwrap_err().to_string();
        assert!(err.contains("whoever dials d.example.org would not trust it"), "{err}");
        Authority::create().unwrap().save(&parent.path().join("foreign")).unwrap();
        assert!(init(&with("b", &["c.example.org"], "foreign", Some("server"))).is_err());
        file("theirs/ca.key", &fs::read_to_string(parent.path().join("foreign/ca.key")).unwrap());
        let err = init(&with("b", &[], "theirs", None)).unwrap_err().to_string();
        assert!(err.contains("not the key of"), "{err}");
        assert!(!parent.path().join("b").exists());
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
