//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package broker

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

const lockName = "lock"

// errLocked says that another process has the folder's lock.
var errLocked = errors.New("another process has the lock")

// checkFolder makes the folder if there is none, and refuses one that is not this
// user's alone: root, too, would leave files there that the owner cannot read.
func checkFolder(dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make the folder: %w: name one that can be made in KEYTURN_STORE", errno(err))
		}
		info, err = os.Stat(dir)
	}
	switch {
	case errors.Is(err, syscall.ENOTDIR), err == nil && !info.IsDir():
		return errors.New("it is not a folder: name one in KEYTURN_STORE")
	case err != nil:
		return fmt.Errorf("%w: name a folder in KEYTURN_STORE that is yours", errno(err))
	}
	if owner := int(info.Sys().(*syscall.Stat_t).Uid); owner != os.Geteuid() {
		return fmt.Errorf("it belongs to %s: run as that user, or name a folder in KEYTURN_STORE that is yours", userName(owner))
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return closeFolder(dir, mode)
	}
	return nil
}

// closeFolder takes a folder with nothing in it from all others who could look into it. One with
// something in it may be there for them, and in one that they can write they may wait.
func closeFolder(dir string, mode os.FileMode) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) > 0 || mode&0o022 != 0 {
		return fmt.Errorf("others have access to it (mode %04o): chmod 700 it, or name another folder in KEYTURN_STORE", mode)
	}
	return os.Chmod(dir, 0o700)
}

// folderLock is held while its files are open. The kernel gives it back when this
// process ends, however it ends.
type folderLock struct {
	folder *os.File // holds when somebody removes the lock file
	file   *os.File // holds against other hosts, where the folder is on NFS
}

// lockFolder takes the folder's lock, or returns errLocked. The lock file stays for ever.
func lockFolder(dir string) (*folderLock, error) {
	folder, err := lockFile(dir, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	file, err := lockFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE)
	if err != nil {
		unlockFile(folder)
		return nil, err
	}
	// For the message of a process that waits. It is the lock that counts, and on a
	// full disk the store can still be read: no error.
	host, _ := os.Hostname()
	file.Truncate(0)
	fmt.Fprintf(file, "%d on %s", os.Getpid(), host)
	return &folderLock{folder, file}, nil
}

func (l *folderLock) unlock() {
	unlockFile(l.file)
	unlockFile(l.folder)
}

func lockFile(path string, flag int) (*os.File, error) {
	file, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the folder: %w: make it writable, or name another one in KEYTURN_STORE", errno(err))
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return file, nil
	}
	file.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errLocked
	}
	return nil, fmt.Errorf("lock the folder: %w: name one on a local disk in KEYTURN_STORE", err)
}

// unlockFile gives the lock back also from a child that was just forked and has not
// closed its copy of the file yet, which closing it would not.
func unlockFile(file *os.File) {
	syscall.Flock(int(file.Fd()), syscall.LOCK_UN)
	file.Close()
}

// servedBy returns the id and the host of the process that took the folder's lock last.
func servedBy(dir string) string {
	process, err := os.ReadFile(filepath.Join(dir, lockName))
	if err != nil || len(process) == 0 {
		return "unknown"
	}
	return string(process)
}

// errno is an error of the os package without the path, which the message already has.
func errno(err error) error {
	if path, ok := errors.AsType[*os.PathError](err); ok {
		return path.Err
	}
	return err
}

func userName(uid int) string {
	id := strconv.Itoa(uid)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "user " + id
}
