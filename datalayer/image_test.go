package datalayer

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// image is what a crash at this instant would leave of a store: the content of its
// file and of its journal, nil for none.
type image struct{ file, journal []byte }

func imageOf(t testing.TB, path string) image {
	t.Helper()
	read := func(path string) []byte {
		content, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return content
	}
	return image{read(path), read(journalPath(path))}
}

// open opens a store after a crash that has left this image.
func (i image) open(t testing.TB) *Store {
	t.Helper()
	path := filepath.Join(inMemory(t), "machine_data.json")
	if err := i.write(path); err != nil {
		t.Fatal(err)
	}
	return open(t, path)
}

// inMemory makes a folder in which a sync costs nothing, if there is such a place.
func inMemory(t testing.TB) string {
	t.Helper()
	folder, err := os.MkdirTemp("/dev/shm", "datalayer-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	return folder
}

func (i image) write(path string) (err error) {
	if i.file != nil {
		err = os.WriteFile(path, i.file, 0o600)
	}
	if i.journal != nil {
		err = errors.Join(err, os.WriteFile(journalPath(path), i.journal, 0o600))
	}
	return err
}
