package machine

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// runFolder is where the files of running commands live in the machine's folder,
// when no folder in memory can be had.
const runFolder = "machine_run"

// makeRunDir makes an empty folder (0700) for files that live no longer than a
// command: in memory if it can be, since that is quicker and keeps values off the
// disk. It is the same one for a machine each time, so what a killed predecessor
// has left is swept. The caller has the machine's lock.
func makeRunDir(dir string) (string, error) {
	path := filepath.Join(dir, runFolder)
	if memory, err := memoryDir(); err == nil {
		// One folder is one machine, also where several containers see the same memory.
		info, err := os.Stat(dir)
		if err != nil {
			return "", err
		}
		sys := info.Sys().(*syscall.Stat_t)
		id := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", dir, sys.Dev, sys.Ino))
		path = filepath.Join(memory, fmt.Sprintf("%x", id[:8]))
	}
	if err := os.RemoveAll(path); err != nil {
		return "", fmt.Errorf("sweep the files of earlier commands: %w", err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return "", fmt.Errorf("make a folder for the files of commands: %w", err)
	}

	return path, nil
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
