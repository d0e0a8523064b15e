//! Reading: entries from the oldest file to the one that is being written, and on from there as it grows and is
//! replaced.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::os::unix::fs::MetadataExt;

use jiff::Timestamp;
use rustix::fs::{Mode, OFlags};
use sys::Dir;

use super::{LONGEST, Stream, age, name};

/// More than an entry can be long.
const LONGEST_ENTRY: u64 = LONGEST as u64 + 128;

/// How often to look at files that change their names before what was found last is taken as it is.
const LOOKS: usize = 100;

/// What a program printed in one go, or a piece of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When it was written down.
    pub at: Timestamp,
    /// Where it was printed.
    pub stream: Stream,
    /// The text, with the end of the line where it has one.
    pub text: Vec<u8>,
}

/// The log of one container, from its oldest entry.
#[derive(Debug)]
pub struct Reader {
    dir: Dir,
    /// Files that are to be read after this one, the next one last.
    later: Vec<File>,
    /// The file that is read, up to its last whole entry.
    file: Option<BufReader<File>>,
    /// The file may have grown between the last look at it and the one at what took its place.
    last_look: bool,
}

impl Reader {
    /// Begins at the oldest entry in `dir`, which may have none.
    pub fn open(dir: Dir) -> io::Result<Reader> {
        let mut reader = Reader {
            dir,
            later: Vec::new(),
            file: None,
            last_look: true,
        };
        reader.later = reader.newer()?;
        Ok(reader)
    }

    /// The next entry; `None` where there is none yet. What is no entry is passed over.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        loop {
            if let Some(file) = &mut self.file
                && let Some(line) = line(file)?
            {
                match parse(&line) {
                    Some(entry) => return Ok(Some(entry)),
                    None => continue,
                }
            }
            if !self.go_on()? {
                return Ok(None);
            }
        }
    }

    /// At the end of a file: whether there is more by now, in it or in the file that took its place.
    fn go_on(&mut self) -> io::Result<bool> {
        if self.later.is_empty() {
            self.later = self.newer()?;
        }
        let Some(file) = &mut self.file else {
            self.file = self.later.pop().map(BufReader::new);
            return Ok(self.file.is_some());
        };
        let (length, read) = (file.get_ref().metadata()?.len(), file.stream_position()?);
        if self.later.is_empty() {
            // Emptied, where one file is all that is kept.
            let emptied = length < read;
            if emptied {
                file.rewind()?;
            }
            return Ok(emptied);
        }
        // It is not written any more: its last entries may have come just before it was replaced.
        if self.last_look && length > read {
            self.last_look = false;
            return Ok(true);
        }
        self.last_look = true;
        self.file = self.later.pop().map(BufReader::new);
        Ok(true)
    }

    /// The files that were begun after the one that is read, the newest first. The writer gives them other names
    /// meanwhile, one after the other: what is found twice is how they are.
    fn newer(&self) -> io::Result<Vec<File>> {
        let own = match &self.file {
            Some(file) => Some(file.get_ref().metadata()?.ino()),
            None => None,
        };
        // By far the most common: the one that is read is the one that is written.
        if own.is_some() && inode(&open(&self.dir, 0)?)? == own {
            return Ok(Vec::new());
        }
        let mut found = self.look(own)?;
        for _ in 0..LOOKS {
            let again = self.look(own)?;
            let same = found
                .iter()
                .map(|(number, _)| number)
                .eq(again.iter().map(|(number, _)| number));
            found = again;
            if same {
                break;
            }
        }
        Ok(found.into_iter().map(|(_, file)| file).collect())
    }

    /// One look at them: with their inodes, down to the one with the inode `own`.
    fn look(&self, own: Option<u64>) -> io::Result<Vec<(u64, File)>> {
        let entries = self.dir.entries()?;
        let mut ages: Vec<u32> = entries.iter().filter_map(|entry| age(&entry.name)).collect();
        ages.sort_unstable();
        let mut found: Vec<(u64, File)> = Vec::new();
        for age in ages {
            let Some(file) = open(&self.dir, age)? else {
                continue;
            };
            let number = file.metadata()?.ino();
            if Some(number) == own {
                break;
            }
            if found.iter().all(|(other, _)| *other != number) {
                found.push((number, file));
            }
        }
        Ok(found)
    }
}

fn inode(file: &Option<File>) -> io::Result<Option<u64>> {
    file.as_ref().map(|file| Ok(file.metadata()?.ino())).transpose()
}

/// The next whole line, or as much of one as an entry can be long. Otherwise nothing is taken.
fn line(file: &mut BufReader<File>) -> io::Result<Option<Vec<u8>>> {
    let start = file.stream_position()?;
    let mut line = Vec::new();
    file.by_ref().take(LONGEST_ENTRY).read_until(b'\n', &mut line)?;
    if line.last() == Some(&b'\n') || line.len() as u64 == LONGEST_ENTRY {
        return Ok(Some(line));
    }
    file.seek(io::SeekFrom::Start(start))?;
    Ok(None)
}

fn open(dir: &Dir, age: u32) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
    match dir.open_file(name(age), flags, Mode::empty()) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse(line: &[u8]) -> Option<Entry> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let at = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let stream = match parts.next()? {
        b"stdout" => Stream::Out,
        b"stderr" => Stream::Err,
        _ => return None,
    };
    // More tags may follow the first after colons.
    let whole = parts.next()?.first()? == &b'F';
    let mut text = parts.next()?.to_vec();
    if whole {
        text.push(b'\n');
    }
    Some(Entry { at, stream, text })
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, Writer};
    use super::*;

    fn dir(temp: &tempfile::TempDir) -> Dir {
        Dir::open_ambient(temp.path()).unwrap()
    }

    fn all(reader: &mut Reader) -> String {
        let mut text = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            text.extend(entry.text);
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn what_was_written_is_read_with_its_stream_and_its_lines() {
        let temp = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir(&temp), Limits::default()).unwrap();
        writer.add(Stream::Out, b"one\ntwo, and a ");
        writer.add(Stream::Err, b"!\n");
        writer.add(Stream::Out, b"half\n\n");
        let long = "x".repeat(2 * LONGEST + 1);
        writer.add(Stream::Out, format!("{long}\n").as_bytes());
        let mut reader = Reader::open(dir(&temp)).unwrap();
        let mut entries = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            entries.push((entry.stream, String::from_utf8(entry.text).unwrap()));
        }
        assert_eq!(
            entries[..5],
            [
                (Stream::Out, "one\n".to_owned()),
                (Stream::Out, "two, and a ".to_owned()),
                (Stream::Err, "!\n".to_owned()),
                (Stream::Out, "half\n".to_owned()),
                (Stream::Out, "\n".to_owned()),
            ]
        );
        let whole: String = entries[5..].iter().map(|(_, text)| &**text).collect();
        assert_eq!((entries.len(), whole), (8, long + "\n"));
        let text = std::fs::read_to_string(temp.path().join("0.log")).unwrap();
        let first = text.lines().next().unwrap();
        assert!(first.ends_with("Z stdout F one"), "{first}");
        assert_eq!(
            first.split(' ').next().unwrap().len(),
            "2016-10-06T00:17:09.669794202Z".len()
        );
    }

    #[test]
    fn a_reader_follows_through_new_files_and_misses_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let limits = Limits { size: 300, files: 3 };
        let mut writer = Writer::open(dir(&temp), limits).unwrap();
        let mut reader = Reader::open(dir(&temp)).unwrap();
        let (mut written, mut read) = (String::new(), String::new());
        for number in 0..200 {
            let line = format!("line {number}\n");
            writer.add(Stream::Out, line.as_bytes());
            written.push_str(&line);
            if number % 7 == 0 {
                read.push_str(&all(&mut reader));
            }
        }
        read.push_str(&all(&mut reader));
        assert_eq!(read, written);
        let kept = all(&mut Reader::open(dir(&temp)).unwrap());
        assert!(written.ends_with(&kept) && kept.lines().count() > 10, "{kept}");
        let names = std::fs::read_dir(temp.path()).unwrap().count();
        assert_eq!(names, 3);
        let bytes: u64 = (0..3)
            .map(|age| {
                std::fs::metadata(temp.path().join(super::name(age)))
                    .unwrap()
                    .len()
            })
            .sum();
        assert!(bytes <= 900, "{bytes}");
    }

    #[test]
    fn much_at_once_is_divided_among_files_too() {
        let temp = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir(&temp), Limits { size: 1000, files: 3 }).unwrap();
        let text: String = (0..500).map(|number| format!("line {number}\n")).collect();
        writer.add(Stream::Out, text.as_bytes());
        let kept = all(&mut Reader::open(dir(&temp)).unwrap());
        assert!(text.ends_with(&kept) && kept.lines().count() > 30, "{kept}");
        for age in 0..3 {
            let length = std::fs::metadata(temp.path().join(super::name(age)))
                .unwrap()
                .len();
            assert!(length <= 1000, "{length}");
        }
    }

    #[test]
    fn one_file_is_begun_anew() {
        let temp = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir(&temp), Limits { size: 200, files: 1 }).unwrap();
        let mut reader = Reader::open(dir(&temp)).unwrap();
        for number in 0..20 {
            writer.add(Stream::Out, format!("line {number}\n").as_bytes());
            assert_eq!(all(&mut reader), format!("line {number}\n"));
        }
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn one_who_reads_while_files_change_their_names_misses_nothing_and_reads_nothing_twice() {
        let temp = tempfile::tempdir().unwrap();
        let limits = Limits {
            size: 150,
            files: 1000,
        };
        let mut writer = Writer::open(dir(&temp), limits).unwrap();
        let mut follower = Reader::open(dir(&temp)).unwrap();
        let mut followed = String::new();
        let check = |text: &str| {
            for (number, line) in text.lines().enumerate() {
                assert_eq!(line, format!("line {number}"));
            }
        };
        std::thread::scope(|scope| {
            let writing = scope.spawn(move || {
                for number in 0..600 {
                    writer.add(Stream::Out, format!("line {number}\n").as_bytes());
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            });
            while !writing.is_finished() {
                check(&all(&mut Reader::open(dir(&temp)).unwrap()));
                followed.push_str(&all(&mut follower));
                check(&followed);
            }
        });
        followed.push_str(&all(&mut follower));
        check(&followed);
        assert_eq!(followed.lines().count(), 600);
    }

    #[test]
    fn a_file_that_is_lacking_hides_no_older_one() {
        let temp = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir(&temp), Limits { size: 1, files: 5 }).unwrap();
        for number in 0..4 {
            writer.add(Stream::Out, format!("line {number}\n").as_bytes());
        }
        // As a supervisor leaves it that is killed between two names.
        std::fs::rename(temp.path().join("0.log.3"), temp.path().join("0.log.4")).unwrap();
        assert_eq!(all(&mut Reader::open(dir(&temp)).unwrap()).lines().count(), 4);
    }

    #[test]
    fn without_a_file_to_put_away_the_others_stay() {
        let temp = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir(&temp), Limits { size: 1, files: 2 }).unwrap();
        writer.add(Stream::Out, b"one\n");
        writer.add(Stream::Out, b"two\n");
        // As it is when it was put away, and there was no room for the next.
        std::fs::remove_file(temp.path().join("0.log")).unwrap();
        writer.add(Stream::Out, b"three\n");
        assert_eq!(all(&mut Reader::open(dir(&temp)).unwrap()), "one\nthree\n");
    }

    #[test]
    fn what_is_no_entry_is_passed_over() {
        let temp = tempfile::tempdir().unwrap();
        let text =
            b"nonsense\n2016-10-06T00:17:09.6Z stdin F no\n2016-10-06T00:17:09.6Z stdout F:x yes\nhalf";
        std::fs::File::create(temp.path().join("0.log"))
            .and_then(|mut f| std::io::Write::write_all(&mut f, text))
            .unwrap();
        assert_eq!(all(&mut Reader::open(dir(&temp)).unwrap()), "yes\n");
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(all(&mut Reader::open(dir(&empty)).unwrap()), "");
    }
}
