package datalayer

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	journalSize = 64 << 10

	// A record begins at a block of its own, so that a power cut in the middle of
	// writing one cannot harm those before it.
	blockSize = 4096

	// A record begins with its number, the length of its commit, and the sum of both
	// and of the content of the store's file that the commit changes.
	lengthAt   = 8
	sumAt      = 12
	headerSize = sumAt + sha256.Size
)

// journal holds the commits that the store's file does not hold yet. Its file has
// its full size from the beginning, so that a commit changes bytes of it and nothing
// of the file system: that is why one sync, of data alone, is enough.
type journal struct {
	path   string
	file   *os.File
	info   fs.FileInfo // of file
	end    int         // where the next record begins
	number uint64      // of the next record; never again in this file
}

// journalPath is where the journal of a store's file stands.
func journalPath(path string) string {
	return strings.TrimSuffix(path, ".json") + ".journal"
}

// newJournal makes an empty journal for the store's file at path.
func newJournal(path string) (*journal, error) {
	j := &journal{path: journalPath(path), number: 1}
	var err error
	// Exclusively, so it is no link that somebody has put there.
	if j.file, err = os.OpenFile(j.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return nil, err
	}
	_, err = j.file.Write(make([]byte, journalSize))
	if err == nil {
		err = j.file.Sync()
	}
	if err == nil {
		err = syncFolder(filepath.Dir(path))
	}
	if err == nil {
		j.info, err = j.file.Stat()
	}
	if err != nil {
		j.file.Close()
		os.Remove(j.path)
		return nil, err
	}
	return j, nil
}

// removeJournal removes the journal of the store's file at path, for good.
func removeJournal(path string) error {
	err := os.Remove(journalPath(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// inPlace says whether nobody has removed or replaced the journal.
func (j *journal) inPlace() bool {
	info, err := os.Lstat(j.path)
	return err == nil && os.SameFile(info, j.info) && info.Size() == journalSize
}

// encode makes the next record, of a commit that changes this version, or nil if it
// does not fit.
func (j *journal) encode(v version, c Commit) []byte {
	payload, err := marshal(c)
	if err != nil || headerSize+len(payload) > journalSize-j.end {
		return nil
	}
	record := make([]byte, headerSize, headerSize+len(payload))
	binary.LittleEndian.PutUint64(record, j.number)
	binary.LittleEndian.PutUint32(record[lengthAt:], uint32(len(payload)))
	record = append(record, payload...)
	sum := v.sumOf(record)
	copy(record[sumAt:], sum[:])
	return record
}

// append writes a record and returns once it is on the disk. After an error nobody
// knows what is there, and a second sync that succeeds would prove nothing.
func (j *journal) append(record []byte) error {
	if _, err := j.file.WriteAt(record, int64(j.end)); err != nil {
		return err
	}
	if err := syncData(j.file); err != nil {
		return err
	}
	j.end += blocks(record) * blockSize
	j.number++
	return nil
}

// clear empties the journal, after another version of the store's file has made its
// records void. That the first one is gone is on the disk when it returns, so they
// stay void even if the file gets back its old content. Those behind it may stand:
// their numbers do not follow on that of a new one.
func (j *journal) clear() error {
	if !j.inPlace() {
		return errors.New("the journal is not where it was")
	}
	if j.end == 0 {
		return nil
	}
	if _, err := j.file.WriteAt(make([]byte, headerSize), 0); err != nil {
		return err
	}
	if err := syncData(j.file); err != nil {
		return err
	}
	j.end = 0
	return nil
}

// readJournal returns the commits that change this version of the store's file at
// path. It ends at the first record that is not whole, which was being written when
// the power went. No journal is no commit.
func readJournal(path string, v version) ([]Commit, error) {
	// No link, because the journal is never one: it may lead to somebody else's file.
	rest, err := readFile(journalPath(path), syscall.O_NOFOLLOW, journalSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var commits []Commit
	for number := uint64(0); len(rest) >= headerSize; number++ {
		length := binary.LittleEndian.Uint32(rest[lengthAt:])
		if uint64(headerSize)+uint64(length) > uint64(len(rest)) {
			break
		}
		record := rest[:headerSize+int(length)]
		if v.sumOf(record) != [sha256.Size]byte(record[sumAt:headerSize]) {
			break
		}
		if number == 0 {
			number = binary.LittleEndian.Uint64(record)
		}
		var c Commit
		if binary.LittleEndian.Uint64(record) != number || json.Unmarshal(record[headerSize:], &c) != nil {
			break
		}
		commits = append(commits, c)
		rest = rest[min(blocks(record)*blockSize, len(rest)):]
	}
	return commits, nil
}

// version is what stands in the store's file.
type version struct {
	sum  [sha256.Size]byte // of its content
	info fs.FileInfo       // nil when there is no file
}

// versionOf is the version of the file at path that has this content, nil for none.
func versionOf(path string, content []byte) (version, error) {
	info, err := os.Stat(path)
	if content == nil && errors.Is(err, fs.ErrNotExist) {
		info, err = nil, nil
	}
	return version{sum: sha256.Sum256(content), info: info}, err
}

// stands says whether the file at path is as it was left.
func (v version) stands(path string) bool {
	info, err := os.Stat(path)
	if v.info == nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	return err == nil && os.SameFile(info, v.info) && info.Size() == v.info.Size() && info.ModTime().Equal(v.info.ModTime())
}

// sumOf is the sum that a record holds if it changes this version.
func (v version) sumOf(record []byte) (sum [sha256.Size]byte) {
	h := sha256.New()
	h.Write(v.sum[:])
	h.Write(record[:sumAt])
	h.Write(record[headerSize:])
	h.Sum(sum[:0])
	return sum
}

// blocks is how many blocks a record takes.
func blocks(record []byte) int { return (len(record) + blockSize - 1) / blockSize }
