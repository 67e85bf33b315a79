package machine

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// runFolder is where the files of running commands live in the machine's folder,
// when no folder in memory can be had.
const runFolder = "machine_run"

// runPrefix begins the names of the folders in memory, one for each machine.
const runPrefix = "machine-"

// runDir is a folder (0700) for files that live no longer than a command.
type runDir struct {
	path string
	lock *os.File // held for as long as the folder is in use
}

// makeRunDir makes an empty one: in memory if it can be, since that is quicker and
// keeps values off the disk. It is the same one for a machine each time. What killed
// processes have left, of this machine or another, is swept. The caller has the
// machine's lock.
func makeRunDir(dir string) (runDir, error) {
	path := filepath.Join(dir, runFolder)
	if memory, err := memoryDir(); err == nil {
		// One folder is one machine, also where several containers see the same memory.
		info, err := os.Stat(dir)
		if err != nil {
			return runDir{}, err
		}
		sys := info.Sys().(*syscall.Stat_t)
		id := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", dir, sys.Dev, sys.Ino))
		path = filepath.Join(memory, fmt.Sprintf("%s%x", runPrefix, id[:8]))
		sweepRunDirs(memory)
	}
	run, err := takeRunDir(path)
	if err != nil {
		return run, fmt.Errorf("make a folder for the files of commands: %w", err)
	}

	return run, nil
}

// takeRunDir makes a folder, or takes the one that a killed process has left. Only who
// has a folder's lock changes it, and what it locks may be swept a moment before.
func takeRunDir(path string) (runDir, error) {
	for range 100 {
		if !private(path, os.Geteuid()) {
			if err := os.RemoveAll(path); err != nil {
				return runDir{}, err
			}
		}
		if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return runDir{}, err
		}
		lock, err := lockFolder(path, unix.LOCK_EX)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return runDir{}, err
		case isAt(lock, path):
			return runDir{path, lock}, empty(path)
		}
		lock.Close()
	}

	return runDir{}, errors.New(path + " is removed again and again")
}

// empty removes what is in a folder.
func empty(path string) error {
	left, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, entry := range left {
		if err := os.RemoveAll(filepath.Join(path, entry.Name())); err != nil {
			return err
		}
	}

	return nil
}

// remove removes the folder with what is in it.
func (r runDir) remove() {
	if r.lock != nil {
		_ = os.RemoveAll(r.path)
		r.lock.Close()
	}
}

// sweepRunDirs removes the folders in memory whose machines have ended without doing
// so, which nobody else would for a machine that is never started again. What cannot be
// removed does no harm.
func sweepRunDirs(memory string) {
	folders, _ := filepath.Glob(filepath.Join(memory, runPrefix+"*"))
	for _, path := range folders {
		if !private(path, os.Geteuid()) {
			continue // not what we have made
		}
		lock, err := lockFolder(path, unix.LOCK_EX|unix.LOCK_NB)
		if err != nil {
			continue // in use
		}
		if isAt(lock, path) {
			_ = os.RemoveAll(path)
		}
		lock.Close()
	}
}

// lockFolder locks a folder until the file that it returns is closed, also by the end
// of the process. It follows no link.
func lockFolder(path string, how int) (*os.File, error) {
	folder, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(folder.Fd()), how); err != nil {
		folder.Close()
		return nil, err
	}

	return folder, nil
}

// isAt says whether an open folder is still the one at a path.
func isAt(folder *os.File, path string) bool {
	open, err := folder.Stat()
	if err != nil {
		return false
	}
	info, err := os.Lstat(path)

	return err == nil && os.SameFile(open, info)
}

// memoryDir makes the user's folder in memory and makes sure that it is nobody else's.
func memoryDir() (string, error) {
	uid := os.Geteuid()
	var candidates []string
	if runtime := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(runtime) && private(runtime, uid) {
		candidates = append(candidates, filepath.Join(runtime, "keyturn"))
	}
	if uid == 0 {
		candidates = append(candidates, "/run/keyturn")
	}
	candidates = append(candidates, "/dev/shm/keyturn-"+strconv.Itoa(uid))

	for _, path := range candidates {
		if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			continue
		}
		if private(path, uid) {
			return path, nil
		}
	}

	return "", errors.New("no folder in memory")
}

// private says whether a path is a folder that only the user can use. It does not
// follow a link, which somebody else may have put there.
func private(path string, uid int) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 {
		return false
	}
	sys, ok := info.Sys().(*syscall.Stat_t)

	return ok && int(sys.Uid) == uid
}
