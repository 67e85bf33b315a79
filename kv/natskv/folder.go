package natskv

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// folder is a backup that is being written. It is a backup when it has been published.
type folder struct {
	dir       string
	temporary string // beside the backup's place inside dir, so that renaming is enough
	unlock    func() // temporary, which is not swept while it is locked
	made      bool   // dir was not there before
	data      *os.File
}

// temporaryPrefix is what the name of a temporary folder begins with.
const temporaryPrefix = "unfinished-"

func newFolder(dir string) (*folder, error) {
	for _, name := range []string{metaName, dataName, newDataName} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return nil, &os.PathError{Op: "write backup", Path: filepath.Join(dir, name), Err: os.ErrExist}
		}
	}
	_, err := os.Stat(dir)
	f := &folder{dir: dir, made: errors.Is(err, os.ErrNotExist), unlock: func() {}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := f.begin(); err != nil {
		return nil, errors.Join(err, f.abandon())
	}
	f.data, err = os.OpenFile(filepath.Join(f.temporary, dataName), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, errors.Join(err, f.abandon())
	}
	return f, nil
}

// begin makes the temporary folder and locks it, for as long as the process lives. Those
// that nobody has locked are of backups that were killed, and go. What was just made and
// has no lock yet may be taken for one of these: then another one is made.
func (f *folder) begin() error {
	if err := f.sweep(); err != nil {
		return err
	}
	for {
		var err error
		if f.temporary, err = os.MkdirTemp(f.dir, temporaryPrefix); err != nil {
			return err
		}
		f.unlock, _ = lock(f.temporary, true)
		if _, err = os.Stat(f.temporary); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		f.unlock()
	}
}

// sweep removes the temporary folders of backups that were killed.
func (f *folder) sweep() error {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(f.dir, e.Name())
		if !e.IsDir() || !strings.HasPrefix(e.Name(), temporaryPrefix) {
			continue
		}
		if unlock, ok := lock(path, false); ok {
			err = errors.Join(err, os.RemoveAll(path))
			unlock()
		}
	}
	return err
}

// seal closes the archive and writes beside it what it should be.
func (f *folder) seal(config map[string]json.RawMessage, state json.RawMessage) error {
	if err := errors.Join(f.data.Sync(), f.data.Close()); err != nil {
		return err
	}
	sum, size, err := sumFile(f.data.Name())
	if err != nil {
		return err
	}
	meta, err := json.MarshalIndent(metaFile{config, state, &proof{Taken: time.Now().UTC().Truncate(time.Second), Bytes: size, SHA256: sum}}, "", "  ")
	if err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(f.temporary, metaName), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(meta)
	return errors.Join(err, file.Sync(), file.Close())
}

// publish puts the files in their place: backup.json last, without which there is no
// backup. Of several in one folder the first one to make the place of the archive has it.
func (f *folder) publish() error {
	place, err := os.OpenFile(filepath.Join(f.dir, dataName), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_ = place.Close() // what it holds is put over it
	for _, name := range []string{dataName, metaName} {
		if err := os.Rename(filepath.Join(f.temporary, name), filepath.Join(f.dir, name)); err != nil {
			return err
		}
		if err := syncDir(f.dir); err != nil {
			return err
		}
	}
	f.made = false
	return nil
}

// abandon removes what is unfinished.
func (f *folder) abandon() error {
	var errs []error
	if f.data != nil {
		_ = f.data.Close() // it is closed already, or of no use
	}
	if f.temporary != "" {
		errs = append(errs, os.RemoveAll(f.temporary))
	}
	f.unlock()
	if f.made {
		_ = os.Remove(f.dir) // unless there is something of others in it
	}
	return errors.Join(errs...)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
