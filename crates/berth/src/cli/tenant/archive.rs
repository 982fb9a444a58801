//! `berth tenant export|import|erase|erasures`: a tenant as files, and the end of one.
//!
//! Files are written readable by their owner alone, the manifest last: what was cut off is no archive.

use super::{CliError, Context, Wait};
use crate::cli::{decide, operation, table::Table, units, watch};
use berth_domain::{CellName, Hostname, OperationId, PlanName, TenantName};
use berth_mover::Archive;
use berth_wire::{Erasure, ImportPlan, TenantImport};
use clap::Args;
use serde::Serialize;
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use uuid::Uuid;

const MANIFEST: &str = "manifest.json";
const CHUNK_BYTES: usize = 1 << 20;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  berth tenant export acme
      leaves the archive in the place that the stack file names: a folder of the server, or a bucket
  berth tenant export acme --to acme.tar
      brings it here, as one file; any other name is a folder")]
pub struct Export {
    tenant: String,
    /// Bring it here: a file where the name ends in `.tar`, else a folder
    #[arg(long, value_name = "PATH", conflicts_with = "detach")]
    to: Option<PathBuf>,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  berth tenant import acme.tar --name acme --plan hobby --host acme.example.com --dry-run
      looks at it, and shows what would come where
  berth tenant import 01981f6e-7d2c-7c1a-9d53-0a8a6d1f2b3c --name acme --plan hobby --cell shared-2
      from the place of archives, into that cell")]
pub struct Import {
    /// What `export --to` wrote, or the id of an archive in the place of archives
    archive: PathBuf,
    #[arg(long)]
    name: TenantName,
    #[arg(long)]
    plan: PlanName,
    /// A host name that routes to it; may be given more than once
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<Hostname>,
    /// The cell to live in; otherwise the best of the plan's class
    #[arg(long)]
    cell: Option<CellName>,
    /// What the tenant needs, as YAML or JSON; no cell that breaks it is taken
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Show what would come where and stop
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Args, Debug)]
pub struct Erase {
    tenant: String,
    /// Show what would be erased and what stays, and stop
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: Wait,
}

/// What an export brought here.
#[derive(Serialize)]
struct Brought {
    archive: OperationId,
    path: PathBuf,
    rows: u64,
    files: usize,
    bytes: u64,
}

impl Export {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        if let Some(to) = &self.to {
            must_be_free(to)?;
        }
        let begun = cx.client.tenant_export(&self.tenant).await?;
        let Some(to) = self.to else { return self.wait.finish(cx, begun).await };
        let ended = watch::to_success(cx, begun).await?;
        let archives = cx.client.tenant_archives(&self.tenant).await?;
        let made = archives.into_iter().find(|archive| archive.id == ended.id).ok_or_else(|| {
            CliError::request(format!("archive {} is gone", ended.id), "somebody removed it: export again")
        })?;
        let folder = if is_tar(&to) { beside(&to, "partial") } else { to.clone() };
        let make = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        make.map_err(|source| CliError::Write { path: folder.clone(), source })?;
        // A tenant's rows are not left behind under a name that nobody asked for, however this ends.
        let partial = Unpacked { folder, made: is_tar(&to) };
        let mut bytes = 0;
        for file in &made.files {
            bytes += download(cx, &self.tenant, made.id, file, &partial.folder.join(plain(file)?)).await?;
        }
        if is_tar(&to) {
            tarred(&partial.folder, &made.files, &to).map_err(|source| CliError::Write { path: to.clone(), source })?;
        }
        drop(partial);
        let brought = Brought { archive: made.id, path: to, rows: made.rows, files: made.files.len(), bytes };
        cx.show(&brought, |b| {
            format!(
                "{} rows in {}: {} files, {}\n",
                units::count(b.rows),
                b.path.display(),
                b.files,
                units::bytes(b.bytes)
            )
        })
    }
}

fn is_tar(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "tar")
}

fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{what}-{}", std::process::id()));
    path.with_file_name(name)
}

/// Before anything is exported: a file is not written over, a folder has to be empty.
fn must_be_free(to: &Path) -> Result<(), CliError> {
    let taken = match fs::read_dir(to) {
        Ok(mut entries) => entries.next().is_some() || is_tar(to),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(_) => true,
    };
    if taken {
        return Err(CliError::request(
            format!("{} is there already", to.display()),
            "name another file or an empty folder",
        ));
    }
    Ok(())
}

/// A name from an archive, as the name of a file here: never a path.
fn plain(file: &str) -> Result<&str, CliError> {
    let fits =
        !file.is_empty() && !file.starts_with('.') && !file.chars().any(|c| c == '/' || c == '\\' || c.is_control());
    if fits { Ok(file) } else { Err(unfit(format!("`{}` is no name of a file", file.escape_debug()))) }
}

fn unfit(why: String) -> CliError {
    CliError::request(format!("the archive does not fit: {why}"), "nothing was changed; bring it again, whole")
}

fn new_file(path: &Path) -> Result<fs::File, CliError> {
    let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|source| CliError::Write { path: path.to_owned(), source })
}

async fn download(cx: &Context, tenant: &str, archive: OperationId, file: &str, to: &Path) -> Result<u64, CliError> {
    let failed = |source| CliError::Write { path: to.to_owned(), source };
    let mut from = cx.client.archive_file(tenant, archive, file).await?;
    let mut out = tokio::fs::File::from_std(new_file(to)?);
    let mut bytes = 0;
    while let Some(part) = from.next().await? {
        bytes += part.len() as u64;
        out.write_all(&part).await.map_err(failed)?;
    }
    // How the last write ended is told by this alone, and not by `sync_all`.
    out.flush().await.map_err(failed)?;
    out.sync_all().await.map_err(failed)?;
    Ok(bytes)
}

fn tarred(folder: &Path, files: &[String], to: &Path) -> io::Result<()> {
    let out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    packed(folder, files, out).inspect_err(|_| {
        // It was made in the line above, and half an archive is in the way of the next try.
        let _ = fs::remove_file(to);
    })
}

fn packed(folder: &Path, files: &[String], out: fs::File) -> io::Result<()> {
    let mut tar = tar::Builder::new(io::BufWriter::new(out));
    // The same archive is the same file, whoever packed it.
    tar.mode(tar::HeaderMode::Deterministic);
    for file in files {
        tar.append_path_with_name(folder.join(file), file)?;
    }
    let out = tar.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    out.sync_all()
}

/// Where the files are, and the folder that was made for them.
struct Unpacked {
    folder: PathBuf,
    made: bool,
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        if self.made {
            // What stays is readable by its owner alone and named after this process.
            let _left = fs::remove_dir_all(&self.folder);
        }
    }
}

fn unpacked(archive: &Path) -> Result<Unpacked, CliError> {
    if archive.is_dir() {
        return Ok(Unpacked { folder: archive.to_owned(), made: false });
    }
    let read = |source| CliError::Read { path: archive.to_owned(), source };
    let file = fs::File::open(archive).map_err(read)?;
    let folder = beside(archive, "unpacked");
    let make = fs::DirBuilder::new().mode(0o700).create(&folder);
    make.map_err(|source| CliError::Write { path: folder.clone(), source })?;
    let into = Unpacked { folder, made: true };
    let cut = |_| unfit(format!("{} is cut off, or no archive", archive.display()));
    for entry in tar::Archive::new(io::BufReader::new(file)).entries().map_err(cut)? {
        let mut entry = entry.map_err(cut)?;
        let name = entry.path().map_err(cut)?.to_string_lossy().into_owned();
        if !entry.header().entry_type().is_file() {
            return Err(unfit(format!("`{}` in it is no file", name.escape_debug())));
        }
        let path = into.folder.join(plain(&name)?);
        let mut out = new_file(&path)?;
        io::copy(&mut entry, &mut out).map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                CliError::Write { path, source }
            }
            _ => cut(source),
        })?;
    }
    Ok(into)
}

/// The manifest, and that every file is there which it names.
fn manifest(folder: &Path) -> Result<Archive, CliError> {
    let path = folder.join(MANIFEST);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(unfit(format!("it has no {MANIFEST}: it was cut off")));
        }
        other => other.map_err(|source| CliError::Read { path: path.clone(), source })?,
    };
    let archive = Archive::parse(&text).map_err(|error| CliError::request(error.to_string(), error.hint()))?;
    for file in archive.files() {
        if !folder.join(plain(&file)?).is_file() {
            return Err(unfit(format!("its file `{file}` is missing")));
        }
    }
    Ok(archive)
}

impl Import {
    /// An archive that lies here.
    pub fn of(
        archive: PathBuf,
        name: TenantName,
        plan: PlanName,
        hosts: Vec<Hostname>,
        cell: Option<CellName>,
        dry_run: bool,
        wait: Wait,
    ) -> Self {
        Self { archive, name, plan, hosts, cell, profile: None, dry_run, wait }
    }

    /// With what the tenant needs.
    pub fn with(self, profile: Option<PathBuf>) -> Self {
        Self { profile, ..self }
    }

    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        let known = self.archive.to_str().and_then(|text| text.parse::<OperationId>().ok());
        let known = known.filter(|_| !self.archive.exists());
        let id = known.unwrap_or_else(|| OperationId::new(Uuid::now_v7()));
        let profile = self.profile.as_deref().map(decide::read_profile).transpose()?.map(decide::over_the_wire);
        let wanted = TenantImport {
            archive: id,
            name: self.name.clone(),
            plan: self.plan.clone(),
            hosts: self.hosts.clone(),
            cell: self.cell.clone(),
            profile,
        };
        if known.is_some() {
            return self.carry_out(cx, &wanted).await;
        }
        let files = unpacked(&self.archive)?;
        let names = manifest(&files.folder)?.files();
        let sent = send(cx, id, &files.folder, &names).await;
        let done = match sent {
            Ok(()) => self.carry_out(cx, &wanted).await,
            Err(error) => Err(error),
        };
        // An operation that began has the files, and removes them when it is over.
        if self.dry_run || !matches!(done, Ok(()) | Err(CliError::Ended { .. } | CliError::StillRunning { .. })) {
            cx.client.import_forget(id).await?;
        }
        done
    }

    async fn carry_out(&self, cx: &Context, wanted: &TenantImport) -> Result<(), CliError> {
        let plan = cx.client.tenant_plan_import(wanted).await?;
        if self.dry_run {
            return cx.show(&plan, |plan| planned(plan, cx));
        }
        cx.agree(&planned(&plan, cx), "Import it?")?;
        // What was agreed to is this cell, whatever would be chosen a moment later.
        let cell = if plan.new_cell { wanted.cell.clone() } else { Some(plan.cell) };
        let begun = cx.client.tenant_import(&TenantImport { cell, ..wanted.clone() }).await?;
        self.wait.finish(cx, begun).await
    }
}

async fn send(cx: &Context, id: OperationId, folder: &Path, names: &[String]) -> Result<(), CliError> {
    for name in names {
        let path = folder.join(name);
        let file = tokio::fs::File::open(&path).await.map_err(|source| CliError::Read { path, source })?;
        let parts = futures_util::stream::try_unfold(file, |mut file| async move {
            let mut part = bytes::BytesMut::with_capacity(CHUNK_BYTES);
            let read = file.read_buf(&mut part).await?;
            Ok::<_, io::Error>((read > 0).then(|| (part.freeze(), file)))
        });
        cx.client.import_file(id, name, parts).await?;
    }
    Ok(())
}

fn planned(plan: &ImportPlan, cx: &Context) -> String {
    let cell = if plan.new_cell { format!("{}, made for it first", plan.cell) } else { plan.cell.to_string() };
    crate::cli::table::facts(&[
        ("tenant", format!("{}, key {}", plan.name, plan.key)),
        ("archive", format!("made {}", units::ago(plan.made_at, cx.now))),
        ("into", format!("cell {cell}")),
        ("rows", format!("{} ({} with all files)", units::count(plan.rows), units::bytes(plan.bytes))),
        ("beside", format!("{} keys in Redis, {} objects", units::count(plan.keys), units::count(plan.objects))),
    ])
}

impl Erase {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        let tenant = cx.client.tenant(&self.tenant).await?;
        let plan = cx.client.tenant_plan_erase(&self.tenant).await?;
        if self.dry_run {
            return cx.show(&plan, |plan| document(plan, cx));
        }
        cx.agree_by_name(&document(&plan, cx), tenant.name.as_str())?;
        let begun = cx.client.tenant_erase(&self.tenant).await?;
        if self.wait.detach {
            return cx.show(&begun, |begun| operation::one(begun, cx.now));
        }
        let ended = watch::to_success(cx, begun).await?;
        let documents = cx.client.erasures().await?;
        let done = documents.into_iter().find(|document| document.operation == Some(ended.id)).ok_or_else(|| {
            CliError::request(
                format!("no document of erasure {} is kept", ended.id),
                "`berth tenant erasures` lists those there are",
            )
        })?;
        cx.show(&done, |done| document(done, cx))
    }
}

pub async fn erasures(cx: &Context) -> Result<(), CliError> {
    let documents = cx.client.erasures().await?;
    cx.show(&documents, |documents| {
        if documents.is_empty() {
            return "No tenant was erased.\n".to_owned();
        }
        documents.iter().map(|one| document(one, cx)).collect::<Vec<_>>().join("\n")
    })
}

fn document(erasure: &Erasure, cx: &Context) -> String {
    let mut text = match (erasure.at, erasure.operation) {
        (Some(at), Some(operation)) => {
            format!("tenant {}: erased {}, operation {operation}\n\n", erasure.tenant, units::ago(at, cx.now))
        }
        _ => format!("tenant {}: would be erased\n\n", erasure.tenant),
    };
    let mut table = Table::new(&["WHERE", "WHAT", ">MANY"]);
    for line in &erasure.erased {
        table.row([line.place.clone(), line.what.clone(), units::count(line.many)]);
    }
    text.push_str(&table.or("Nothing was there."));
    for kept in &erasure.kept {
        text.push_str(&format!("kept: {}: {}\n", kept.what, kept.why));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{must_be_free, plain, tarred, unpacked};

    #[test]
    fn names_in_an_archive_are_files_and_never_paths() {
        for name in ["public.notes.csv.zst", "manifest.json", "public.a b.csv.zst"] {
            assert!(plain(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", "../x", "a/b", "/etc/passwd", ".hidden", "a\\b", "a\nb"] {
            assert!(plain(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn what_is_packed_is_unpacked_and_what_is_cut_off_is_refused() {
        let scratch = std::env::temp_dir().join(format!("berth-archive-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&scratch).unwrap();
        let files = ["b.csv.zst".to_owned(), "manifest.json".to_owned()];
        for file in &files {
            std::fs::write(scratch.join(file), vec![b'x'; 3_000]).unwrap();
        }
        let to = scratch.join("a.tar");
        assert!(must_be_free(&to).is_ok());
        tarred(&scratch, &files, &to).unwrap();
        assert!(must_be_free(&to).is_err() && must_be_free(&scratch).is_err());
        let folder = {
            let back = unpacked(&to).unwrap();
            for file in &files {
                assert_eq!(std::fs::read(back.folder.join(file)).unwrap(), vec![b'x'; 3_000]);
            }
            back.folder.clone()
        };
        assert!(!folder.exists(), "it goes when nobody needs it");
        let whole = std::fs::read(&to).unwrap();
        std::fs::write(&to, &whole[..2_000]).unwrap();
        assert!(unpacked(&to).is_err());
        std::fs::remove_dir_all(&scratch).unwrap();
    }
}
