//! Methods about logs: reading parts of them and emptying them. Files are read off this thread; they are
//! emptied by whoever writes them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use fleetvisor_model::name::ProcessName;
use fleetvisor_model::status::ProcessStatus;
use fleetvisor_proto::fault::{Fault, FaultCode};
use fleetvisor_proto::xmlrpc::Value;
use tokio::task::spawn_blocking;

use super::Api;
use super::args::Args;
use super::call::{Answer, Failure};
use super::processes::{by_priority, result};
use super::read::{self, ReadError};

#[derive(Clone, Copy, Debug)]
enum Channel {
    Stdout,
    Stderr,
}

pub(super) async fn read_main(api: &Api, args: Args) -> Answer {
    let path = api.handle.facts().own_log();
    read(path.as_deref(), &args, 0).await
}

pub(super) async fn clear_main(api: &Api) -> Answer {
    match api.handle.facts().own_log() {
        Some(path) if exists(&path).await => {}
        Some(_) | None => return Err(FaultCode::NoFile.into()),
    }
    api.logs.clear_main().await.map_err(|_| FaultCode::Failed)?;
    Ok(true.into())
}

pub(super) async fn read_stdout(api: &Api, args: Args) -> Answer {
    let path = log_of(api, &args, Channel::Stdout).await?;
    read(path.as_deref(), &args, 1).await
}

pub(super) async fn read_stderr(api: &Api, args: Args) -> Answer {
    let path = log_of(api, &args, Channel::Stderr).await?;
    read(path.as_deref(), &args, 1).await
}

pub(super) async fn tail_stdout(api: &Api, args: Args) -> Answer {
    tail(log_of(api, &args, Channel::Stdout).await?, &args).await
}

pub(super) async fn tail_stderr(api: &Api, args: Args) -> Answer {
    tail(log_of(api, &args, Channel::Stderr).await?, &args).await
}

pub(super) async fn clear(api: &Api, args: Args) -> Answer {
    let status = process(api, &args).await?;
    let files = files(&status);
    let given = args.name(0)?.given;
    api.logs.clear(files).await.map_err(|_| Fault::with(FaultCode::Failed, given))?;
    Ok(true.into())
}

pub(super) async fn clear_all(api: &Api) -> Answer {
    let mut results = Vec::new();
    for name in by_priority(api).await? {
        let status = api.handle.status(name.clone()).await.map_err(|gone| api.gone(gone))?;
        let outcome = match status {
            Some(status) => {
                let cleared = api.logs.clear(files(&status)).await;
                cleared.map_err(|_| Fault::with(FaultCode::Failed, &name))
            }
            None => Err(Fault::with(FaultCode::BadName, &name)),
        };
        results.push(result(&name, outcome));
    }
    Ok(results.into())
}

async fn process(api: &Api, args: &Args) -> Result<ProcessStatus, Failure> {
    let name = args.name(0)?;
    let process = name.process.ok_or_else(|| name.is_bad())?;
    let status = api.handle.status(ProcessName::new(name.group, process)).await;
    status.map_err(|gone| api.gone(gone))?.ok_or_else(|| name.is_bad())
}

async fn log_of(api: &Api, args: &Args, channel: Channel) -> Result<Option<PathBuf>, Failure> {
    let status = process(api, args).await?;
    let path = match channel {
        Channel::Stdout => status.stdout_logfile,
        Channel::Stderr => status.stderr_logfile,
    };
    Ok(Some(path).filter(|path| !path.is_empty()).map(PathBuf::from))
}

fn files(status: &ProcessStatus) -> Vec<PathBuf> {
    let both = [&status.stdout_logfile, &status.stderr_logfile];
    both.into_iter().filter(|path| !path.is_empty()).map(PathBuf::from).collect()
}

/// `first` is where offset and length stand among the parameters.
async fn read(path: Option<&Path>, args: &Args, first: usize) -> Answer {
    let Some(path) = path else { return Err(FaultCode::NoFile.into()) };
    if !exists(path).await {
        return Err(Fault::with(FaultCode::NoFile, path.display()).into());
    }
    let (offset, length) = (args.int(first)?, args.int(first + 1)?);
    let path = path.to_owned();
    let read = blocking(move || read::read(&mut open(&path)?, offset, length)).await;
    Ok(text(read.map_err(|error| match error {
        ReadError::BadArguments => Fault::new(FaultCode::BadArguments),
        ReadError::TooLong => Fault::with(FaultCode::Failed, error),
        ReadError::Io(_) => Fault::new(FaultCode::Failed),
    })?))
}

async fn tail(path: Option<PathBuf>, args: &Args) -> Answer {
    let answer =
        |bytes, offset: i64, overflow: bool| vec![text(bytes), offset.into(), overflow.into()].into();
    let Some(path) = path else { return Ok(answer(Vec::new(), 0, false)) };
    if !exists(&path).await {
        return Ok(answer(Vec::new(), 0, false));
    }
    let (offset, length) = (args.int(1)?, args.int(2)?);
    match blocking(move || read::tail(&mut open(&path)?, offset, length)).await {
        Ok((bytes, size, overflow)) => Ok(answer(bytes, size, overflow)),
        Err(error @ ReadError::TooLong) => Err(Fault::with(FaultCode::Failed, error).into()),
        Err(ReadError::Io(_) | ReadError::BadArguments) => Ok(answer(Vec::new(), offset, false)),
    }
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    spawn_blocking(read).await.unwrap_or_else(|error| Err(ReadError::Io(error.into())))
}

async fn exists(path: &Path) -> bool {
    tokio::fs::try_exists(path).await.unwrap_or(false)
}

/// A log may be named like a pipe, which must not be waited for.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)
}

/// A part of a log may begin or end inside a character.
fn text(bytes: Vec<u8>) -> Value {
    match String::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned().into(),
    }
}
