package datalayer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// WriteFile replaces a file's content so that whatever happens, a crash and a
// power cut included, the file holds all of the old or all of the new content;
// when it returns without an error, the new one is on the disk. The file is
// readable by its owner only. On an error nothing is left behind.
func WriteFile(path string, data []byte) error {
	folder, name := filepath.Split(path)
	if folder == "" {
		folder = "." // else CreateTemp means the folder for temporary files
	}
	temp, err := os.CreateTemp(folder, name+tempInfix+"*") // with mode 0600
	if err != nil {
		return err
	}
	_, err = temp.Write(data)
	if err == nil {
		err = temp.Sync()
	}
	if closed := temp.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		os.Remove(temp.Name())
		return err
	}
	return syncFolder(folder)
}

// ReadFile reads a file that WriteFile wrote. Unlike os.ReadFile it neither waits
// nor fills the memory, whatever path is, and it takes the file from the eyes of
// others. A missing file is an fs.ErrNotExist.
func ReadFile(path string) ([]byte, error) {
	return readFile(path, 0, MaxSize)
}

func readFile(path string, flags int, maxSize int64) ([]byte, error) {
	// Not blocking, because opening a pipe would wait for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|flags, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a file")
	}
	if info.Mode().Perm() != 0o600 {
		f.Chmod(0o600) // if it fails: the next WriteFile makes a new file
	}
	if info.Size() > maxSize {
		return nil, fmt.Errorf("larger than %d bytes", maxSize)
	}
	return io.ReadAll(f)
}

// UnreadableError says that a file was set aside because it could not be read.
type UnreadableError struct {
	Path  string // where it stood
	Aside string // where it is now
	Err   error  // why
}

// Error says what was set aside, where it is and why.
func (e *UnreadableError) Error() string {
	return fmt.Sprintf("%s cannot be read (%v): kept as %s", e.Path, e.Err, e.Aside)
}

// Unwrap returns the reason.
func (e *UnreadableError) Unwrap() error { return e.Err }

// MoveAside renames a file that cannot be read, so that it is in nobody's way
// and nothing is lost. The new name says what it is, and no other file has it.
func MoveAside(path string, why error) (*UnreadableError, error) {
	base := path + ".unreadable-" + time.Now().UTC().Format("20060102T150405Z")
	aside := base
	for n := 2; ; n++ {
		_, err := os.Lstat(aside)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s cannot be read (%w) nor set aside: %w", path, why, err)
		}
		aside = fmt.Sprintf("%s-%d", base, n)
	}
	err := os.Rename(path, aside)
	if err == nil {
		err = syncFolder(filepath.Dir(path))
	}
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read (%w) nor set aside: %w", path, why, err)
	}
	return &UnreadableError{Path: path, Aside: aside, Err: why}, nil
}

// Sweep removes what crashes have left of earlier calls of WriteFile for path.
// It must not be called while one runs. It fails when the folder is not there.
func Sweep(path string) error {
	folder, name := filepath.Split(path)
	if folder == "" {
		folder = "."
	}
	files, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, file := range files {
		if strings.HasPrefix(file.Name(), name+tempInfix) {
			// One that cannot be removed does no harm; the next commit tells
			// what is wrong with the folder.
			os.Remove(filepath.Join(folder, file.Name()))
		}
	}
	return nil
}

const tempInfix = ".tmp-"

// syncFolder makes a rename in a folder last. Some file systems cannot sync a
// folder and say so; then there is nothing more to do.
func syncFolder(folder string) error {
	f, err := os.Open(folder)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("sync folder: %w", err)
	}
	return nil
}
