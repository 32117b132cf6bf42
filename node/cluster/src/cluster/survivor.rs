//! The log of a member that does not run, opened to see whether it can go on without the others,
//! and to have it do so.

use std::path::Path;

use crate::image::Image;
use crate::log::Error;
use crate::raft_log::RaftLog;
use crate::recovery::Recovery;

/// See the [module documentation](self). Nobody else can open the log meanwhile.
#[derive(Debug)]
pub struct Survivor {
    log: RaftLog,
    recovery: Recovery,
}

impl Survivor {
    /// Looks at the log of this member in its data directory, and changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::NotRecovered`], [`Error::Damaged`].
    pub fn open(data_dir: &Path, member: u64) -> Result<Self, Error> {
        let path = data_dir.join("raft.redb");
        if !path.exists() {
            let reason = "it is not there".to_owned();
            return Err(Error::Damaged { path, reason });
        }
        let (log, image) = RaftLog::open(&path, &Image::joining())?;
        Ok(Self { log, recovery: Recovery::of(member, &image)? })
    }

    /// What it would do.
    #[must_use]
    pub const fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Has the member go on alone; durable when it returns.
    ///
    /// # Errors
    ///
    /// [`Error::Write`]: look again at what is there.
    pub fn carry_out(&self) -> Result<(), Error> {
        let write = &self.recovery.write;
        let place = write.checkpoint.as_ref().map(|it| it.place).unwrap_or_default();
        self.log.write(write, place)
    }
}
