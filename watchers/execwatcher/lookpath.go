package execwatcher

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

var errNoCommand = errors.New("no such command")

// lookPath finds the file of a program like a shell that stands in dir would: a
// name with a slash is a path, any other is looked for in the folders of path.
func lookPath(name, dir, path string) (string, error) {
	if strings.Contains(name, "/") {
		return absolute(name, dir), nil
	}
	for _, folder := range filepath.SplitList(path) {
		file := filepath.Join(absolute(folder, dir), name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", errNoCommand
}

func absolute(path, dir string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// explainStart says why a program did not start, and what to do about it. The
// name is what people may know it by.
func explainStart(err error, name, file, dir string) error {
	info, statErr := os.Stat(file)
	switch {
	case errors.Is(err, errNoCommand):
		return fmt.Errorf("%s: no such command in PATH or the machine's folder: install it, make it executable, or write its full path", name)
	case errors.Is(err, syscall.E2BIG):
		return fmt.Errorf("%s: its arguments and environment are too large for the system: let it read large values from $WATCHER_DATA", name)
	case !isFolder(dir):
		return fmt.Errorf("%s: the machine's folder %s is gone", name, dir)
	case errors.Is(statErr, os.ErrNotExist):
		return fmt.Errorf("%s: no such file: a relative path begins at the machine's folder %s", name, dir)
	case statErr == nil && info.IsDir():
		return fmt.Errorf("%s: is a folder, not a command", name)
	case statErr == nil && info.Mode()&0o111 == 0:
		return fmt.Errorf("%s: is not executable: chmod +x it", name)
	case errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("%s: its interpreter does not exist: look at its first line (#!), or at what it is linked with", name)
	case errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("%s: is neither a program of this system nor a script that begins with a #! line", name)
	}
	var reason syscall.Errno
	if errors.As(err, &reason) {
		err = reason // the path around it may come from a template
	}
	return fmt.Errorf("%s: %w", name, err)
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
