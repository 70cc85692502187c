//! `admin`: an admin's identity for whoever holds the controller's directory, when no certificate of an admin is left.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use fleetvisor_model::selector::Selector;
use fleetvisor_proto::principal::{Role, check_operator_name};

use crate::audit::{Audit, Entry};
use crate::grant::Grant;
use crate::layout::Layout;
use crate::operators;
use crate::pki::Authority;
use crate::records::{self, OperatorRecord};
use crate::store::sled::SledStore;
use crate::store::{Expect, Store, StoreError, Transaction};

/// Who it was, in the audit log.
const BY: &str = "whoever holds the controller's directory";

/// Make an identity with the role admin, where no admin's certificate is left; the controller must not be running
///
/// Earlier certificates of that operator are void from then on. It is in the audit log.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  systemctl stop fleetvisor-controller
  fleetvisor-controller admin --dir /var/lib/fleetvisor --out ~/admin
  systemctl start fleetvisor-controller")]
pub(crate) struct Args {
    /// Directory that `init` made
    #[arg(long)]
    dir: PathBuf,

    /// Directory to make for the identity
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// The operator: a new one, or an admin whose certificates are lost
    #[arg(long, value_name = "NAME", default_value = "admin")]
    name: String,
}

pub(crate) fn recover(args: &Args) -> anyhow::Result<()> {
    check_operator_name(&args.name)?;
    if args.out.exists() {
        bail!("{} exists, and nothing is overwritten", args.out.display());
    }
    let layout = Layout::new(&args.dir);
    let authority = Authority::load(&layout.ca())?;
    let store = match SledStore::open(&layout.store()) {
        Err(error @ StoreError::Locked { .. }) => bail!("{error}; stop it first"),
        opened => opened?,
    };
    let grant = Grant::new()?;
    let identity = authority.operator(Role::Admin, &args.name, grant)?;
    let (_, until) = identity.validity();
    let record = operators::record(Role::Admin, &Selector::default(), grant, until, BY.to_owned());
    // It counts for nothing before the store knows it.
    identity.save(&args.out)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let registered = runtime.block_on(register(Arc::new(store), &args.name, record));
    if registered.is_err() {
        // Best effort: the error that is reported is the one that matters.
        let _ = std::fs::remove_dir_all(&args.out);
    }
    registered?;
    print_result(&args.out, &args.name);
    Ok(())
}

async fn register(store: Arc<dyn Store>, name: &str, record: OperatorRecord) -> anyhow::Result<()> {
    let key = records::operator_key(name);
    let expect = match store.get(&key).await? {
        None => Expect::Absent,
        Some(stored) => {
            let old: OperatorRecord = records::decode(&key, &stored)?;
            if old.revoked.is_none() && old.role != Role::Admin.to_string() {
                bail!("operator {name} has the role {}; choose another --name", old.role);
            }
            Expect::Revision(stored.revision)
        }
    };
    let put = Transaction::default().put_if(key, expect, records::encode(&record));
    let entry = Entry::new(BY, "operator.recover", format!("operator {name}")).detail("role admin");
    Audit::new(store).commit(entry, put).await.context("cannot store who the admin is")?;
    Ok(())
}

fn print_result(out: &Path, name: &str) {
    println!("{}: the identity of operator {name} (role admin, valid for a year)", out.display());
    println!(
        "Earlier certificates of operator {name} are void. `ctl operator list` shows who else there is."
    );
}

#[cfg(test)]
mod tests {
    use fleetvisor_proto::identity::Identity;

    use super::*;
    use crate::init;
    use crate::operators::Operators;

    #[test]
    fn the_new_identity_counts_and_the_lost_one_does_not() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("c");
        init::init(&init::Args::for_test(&dir)).unwrap();
        let args = |out: &str, name: &str| Args {
            dir: dir.clone(),
            out: parent.path().join(out),
            name: name.to_owned(),
        };
        recover(&args("new", "admin")).unwrap();
        recover(&args("other", "root")).unwrap();

        let store = SledStore::open(&Layout::new(&dir).store()).unwrap();
        let operators = Operators::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(operators.load(&store)).unwrap();
        let admit = |dir: &Path, name: &str| {
            let leaf = Identity::load(dir).unwrap().presented().swap_remove(0);
            let (_, parsed) = x509_parser::parse_x509_certificate(&leaf).unwrap();
            operators.admit(name, Grant::of_serial(parsed.raw_serial()))
        };
        assert_eq!(admit(&parent.path().join("new"), "admin").unwrap().0, Role::Admin);
        assert_eq!(admit(&parent.path().join("other"), "root").unwrap().0, Role::Admin);
        assert!(admit(&dir.join("admin"), "admin").is_err());

        // The store is one controller's alone, and nothing is overwritten.
        let error = recover(&args("third", "admin")).unwrap_err().to_string();
        assert!(error.contains("stop it first"), "{error}");
        drop(store);
        let error = recover(&args("new", "admin")).unwrap_err().to_string();
        assert!(error.contains("nothing is overwritten"), "{error}");
        assert!(!parent.path().join("third").exists());
    }
}
