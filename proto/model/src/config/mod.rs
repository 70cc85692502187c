//! The typed configuration and how it is read. INI text becomes sections and options with their places
//! ([`Document`]); a `Source` holds the main file and those it includes and expands `%(name)s` in values;
//! each kind of section has a file that gives it meaning; [`load`] puts them together into a [`Config`],
//! [`load_ctl`] reads the client's part, [`read_bundle`] what a fleet adds. What a host must be asked for comes in through [`Host`].

mod bundle;
mod ctl;
mod error;
mod expand;
mod fleet;
mod group;
mod host;
mod ini;
mod load;
mod pairs;
mod path;
mod pattern;
mod percent;
mod program;
mod python;
mod rpcinterface;
mod server;
mod source;
mod types;
mod value;

pub use bundle::{
    BUNDLE_SECTIONS, Bundle, BundleFault, Bundled, Bundles, OwnPrograms, Place, names_used, own_programs,
    read_bundle,
};
pub use ctl::{CtlSection, load_ctl};
pub use error::ConfigError;
pub use group::EVENT_TYPES;
pub use host::{Host, MAX_CONFIG_BYTES, User};
pub use ini::Document;
pub use load::{load, main_logfile};
pub use path::{existing_directory, existing_dirpath, normalize};
pub use python::repr;
pub use types::*;
pub use value::{byte_size, integer, logging_level, name_to_uid, octal};
