//! What inotify tells of files and folders: nothing is read that has not changed.
//!
//! Where it tells nothing, everything is polled: on file systems that other machines write to, and when the kernel has no
//! watches left. And because it may be silent elsewhere, too (an overlay's file that is copied up), whoever waits is told
//! to look at everything from time to time all the same.

use std::{
    collections::{HashMap, HashSet},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
        statfs::fstatfs,
    },
};
use tracing::{info, warn};

/// Whoever is told of each write of a busy log is told this often at most.
const PACE: Duration = Duration::from_millis(2);

/// A file as [`Position`](super::position::Position) has it: device and inode.
pub(super) type Id = (u64, u64);

/// Magic numbers of file systems that other machines, or the host of a virtual one, write to: NFS, SMB (three), Ceph,
/// 9P, AFS, Coda, FUSE, OCFS2, GFS2 (`statfs(2)`).
const REMOTE: [u32; 11] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x00c3_6400,
    0x0102_1997,
    0x5346_414f,
    0x7375_7245,
    0x6573_5546,
    0x7461_636f,
    0x0116_1970,
];

/// What may have changed.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Everything.
    all: bool,
    files: HashSet<Id>,
    /// Files have come or gone somewhere.
    pub(super) in_folders: bool,
}

impl News {
    pub(super) fn of_everything() -> Self {
        Self { all: true, ..Self::default() }
    }

    pub(super) fn is_about(&self, file: Id) -> bool {
        self.all || self.in_folders || self.files.contains(&file)
    }
}

/// A watch, or why there is none.
type Watch = Result<WatchDescriptor, Errno>;

#[derive(Clone, Debug)]
enum Watched {
    File(Id),
    Folder(PathBuf),
}

/// The watches.
#[derive(Debug)]
pub(super) struct Notices {
    inotify: Option<Inotify>,
    watched: HashMap<WatchDescriptor, Watched>,
    files: HashMap<Id, Watch>,
    folders: HashMap<PathBuf, Watch>,
    /// It was said that something cannot be watched.
    said: bool,
    woken: Instant,
}

impl Notices {
    pub(super) fn new() -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        if let Err(error) = inotify {
            warn!(
                "Log files are polled, because inotify cannot be used ({error}); fs.inotify.max_user_instances may be too low"
            );
        }
        Self {
            said: inotify.is_err(),
            inotify: inotify.ok(),
            watched: HashMap::new(),
            files: HashMap::new(),
            folders: HashMap::new(),
            woken: Instant::now(),
        }
    }

    /// Watches these files and folders and no others. What is watched only from now on is news.
    pub(super) fn watch<'a>(
        &mut self,
        files: impl Iterator<Item = (Id, BorrowedFd<'a>)>,
        folders: &[PathBuf],
        news: &mut News,
    ) {
        let files: HashMap<_, _> = files.collect();
        let gone_files = self.files.extract_if(|file, _| !files.contains_key(file)).map(|(_, watch)| watch);
        let gone_folders =
            self.folders.extract_if(|folder, _| !folders.contains(folder)).map(|(_, watch)| watch);
        for watch in gone_files.chain(gone_folders).flatten().collect::<Vec<_>>() {
            self.remove(watch);
        }
        for (id, file) in files {
            if !self.files.contains_key(&id) {
                let watch = self.watch_file(file);
                self.watched.extend(watch.map(|watch| (watch, Watched::File(id))));
                self.files.insert(id, watch);
                news.files.insert(id);
            }
        }
        for folder in folders {
            if !self.folders.contains_key(folder) {
                let watch = self.watch_folder(folder);
                self.watched.extend(watch.map(|watch| (watch, Watched::Folder(folder.clone()))));
                self.folders.insert(folder.clone(), watch);
                news.in_folders |= watch.is_ok();
            }
        }
    }

    /// Tries once more to watch what could not be watched.
    pub(super) fn retry(&mut self) {
        self.files.retain(|_, watch| watch.is_ok());
        self.folders.retain(|_, watch| watch.is_ok());
    }

    fn watch_file(&mut self, file: BorrowedFd<'_>) -> Watch {
        if fstatfs(file).is_ok_and(|on| REMOTE.contains(&(on.filesystem_type().0 as u32))) {
            return Err(Errno::EREMOTE);
        }
        // This very file, wherever its name leads by now.
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        self.add(&path, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_MOVE_SELF)
    }

    fn watch_folder(&mut self, folder: &Path) -> Watch {
        let comes_or_goes = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVE | AddWatchFlags::IN_DELETE;
        self.add(folder, comes_or_goes | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_ONLYDIR)
    }

    fn add(&mut self, path: &Path, flags: AddWatchFlags) -> Watch {
        let watch = self.inotify.as_ref().ok_or(Errno::ENOSYS)?.add_watch(path, flags);
        if let Err(error) = watch
            && !is_missing(error)
            && !std::mem::replace(&mut self.said, true)
        {
            let advice = if error == Errno::ENOSPC { "; raise fs.inotify.max_user_watches" } else { "" };
            warn!("Log files are polled, because they cannot be watched ({error}){advice}");
        }
        watch
    }

    fn remove(&mut self, watch: WatchDescriptor) {
        self.watched.remove(&watch);
        if let Some(inotify) = &self.inotify {
            // The kernel has removed that of something that is gone by itself.
            inotify.rm_watch(watch).unwrap_or_default();
        }
    }

    /// Whether something that is there cannot be watched.
    fn is_blind(&self) -> bool {
        let folders = self.folders.values().any(|watch| watch.is_err_and(|error| !is_missing(error)));
        folders || self.files.values().any(Result::is_err)
    }

    /// Waits for news: for `at_most` so long, after which everything may have changed; for `poll` if something that is
    /// there cannot be watched; or until something can be read from `stop`.
    pub(super) fn wait(&mut self, at_most: Duration, poll_every: Duration, stop: impl AsFd) -> News {
        let is_blind = self.is_blind();
        if !is_blind && std::mem::take(&mut self.said) {
            info!("Log files are watched again, and not polled");
        }
        let time = if is_blind { poll_every.min(at_most) } else { at_most };
        let timeout = PollTimeout::try_from(time.max(Duration::from_millis(1))).unwrap_or(PollTimeout::ZERO);
        let mut sources = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        sources.extend(self.inotify.iter().map(|inotify| PollFd::new(inotify.as_fd(), PollFlags::POLLIN)));
        match poll(&mut sources, timeout) {
            Ok(0) => News::of_everything(),
            Ok(_) => self.take(),
            Err(Errno::EINTR) => News::default(),
            Err(_) => {
                thread::sleep(poll_every);
                News::of_everything()
            }
        }
    }

    fn take(&mut self) -> News {
        let mut news = News::default();
        thread::sleep(PACE.saturating_sub(self.woken.elapsed()));
        self.woken = Instant::now();
        while let Some(Ok(events)) = self.inotify.as_ref().map(Inotify::read_events) {
            for event in events {
                news.all |= event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
                let is_over = event.mask.contains(AddWatchFlags::IN_IGNORED);
                match self.watched.get(&event.wd).cloned() {
                    Some(Watched::File(id)) => {
                        news.files.insert(id);
                        if is_over {
                            self.files.remove(&id);
                            self.watched.remove(&event.wd);
                        }
                    }
                    Some(Watched::Folder(folder)) => {
                        news.in_folders = true;
                        // Moved away, it is another one; what takes its place is watched the next time.
                        if is_over || event.mask.contains(AddWatchFlags::IN_MOVE_SELF) {
                            self.folders.remove(&folder);
                            self.remove(event.wd);
                        }
                    }
                    None => {}
                }
            }
        }
        news
    }
}

fn is_missing(error: Errno) -> bool {
    matches!(error, Errno::ENOENT | Errno::ENOTDIR)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io::{Write as _, pipe},
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_written_and_what_comes_and_goes_is_told_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (never, _writer) = pipe().unwrap();
        let file = |name: &str| File::create(dir.path().join(name)).unwrap();
        let (mut a, b) = (file("a"), file("b"));
        let folders = [dir.path().to_owned(), dir.path().join("missing")];
        let mut notices = Notices::new();
        let watch = |notices: &mut Notices, files: &[(Id, &File)]| {
            let mut news = News::default();
            notices.watch(files.iter().map(|(id, file)| (*id, file.as_fd())), &folders, &mut news);
            news
        };
        let (id_a, id_b) = ((0, 1), (0, 2));
        let news = watch(&mut notices, &[(id_a, &a), (id_b, &b)]);
        assert!(
            news.files.len() == 2 && news.in_folders,
            "what is watched from now on may have changed before"
        );
        assert!(watch(&mut notices, &[(id_a, &a), (id_b, &b)]).files.is_empty());
        assert!(!notices.is_blind(), "what is not there is not blind");

        a.write_all(b"line\n").unwrap();
        let news = notices.wait(LONG, LONG, &never);
        assert!(news.is_about(id_a) && !news.is_about(id_b) && !news.in_folders);
        fs::rename(dir.path().join("b"), dir.path().join("b.1")).unwrap();
        let news = notices.wait(LONG, LONG, &never);
        assert!(news.files.contains(&id_b) && news.in_folders);
        fs::create_dir(dir.path().join("missing")).unwrap();
        assert!(notices.wait(LONG, LONG, &never).in_folders);
        notices.retry();
        assert!(watch(&mut notices, &[(id_a, &a)]).in_folders);
        file("missing/c");
        assert!(notices.wait(LONG, LONG, &never).in_folders);

        (&b).write_all(b"nobody watches\n").unwrap();
        let news = notices.wait(Duration::from_millis(5), LONG, &never);
        assert!(news.files.is_empty() && news.is_about(id_b), "when time is over, all is looked at");
    }

    #[test]
    fn without_watches_everything_is_polled_and_a_stop_is_not_waited_for() {
        let file = tempfile::tempfile().unwrap();
        let mut notices = Notices { inotify: None, ..Notices::new() };
        notices.watch([((0, 1), file.as_fd())].into_iter(), &[], &mut News::default());
        let (reader, writer) = pipe().unwrap();
        assert!(notices.wait(LONG, Duration::from_millis(1), &reader).is_about((0, 1)));
        drop(writer);
        assert!(!notices.wait(LONG, LONG, &reader).is_about((0, 1)));
    }
}
