package datalayer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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
