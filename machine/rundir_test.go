package machine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRunDir(t *testing.T) {
	runtime := t.TempDir()
	if err := os.Chmod(runtime, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_RUNTIME_DIR", runtime)
	dir := t.TempDir()

	first, err := makeRunDir(dir)
	if err != nil || !strings.HasPrefix(first, filepath.Join(runtime, "keyturn")+"/") {
		t.Fatalf("%s, %v: want a folder in %s", first, err, runtime)
	}
	if info, err := os.Stat(first); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v: want a private folder", info.Mode(), err)
	}
	left := filepath.Join(first, "left")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	second, err := makeRunDir(dir)
	if err != nil || second != first {
		t.Errorf("the same machine gets %s after %s, %v", second, first, err)
	}
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a killed predecessor has left is not swept: %v", err)
	}
	if other, err := makeRunDir(t.TempDir()); err != nil || other == first {
		t.Errorf("two machines share %s, %v", other, err)
	}
}

// TestRunDirOfSomebodyElse uses no folder that somebody else may have prepared.
func TestRunDirOfSomebodyElse(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, runtime string){
		"open to all": func(t *testing.T, runtime string) { chmod(t, runtime, 0o777) },
		"open inside": func(t *testing.T, runtime string) {
			chmod(t, runtime, 0o700)
			if err := os.Mkdir(filepath.Join(runtime, "keyturn"), 0o700); err != nil {
				t.Fatal(err)
			}
			chmod(t, filepath.Join(runtime, "keyturn"), 0o755)
		},
		"a link": func(t *testing.T, runtime string) {
			chmod(t, runtime, 0o700)
			if err := os.Symlink(t.TempDir(), filepath.Join(runtime, "keyturn")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			runtime := t.TempDir()
			t.Setenv("XDG_RUNTIME_DIR", runtime)
			prepare(t, runtime)
			path, err := makeRunDir(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(path)
			if strings.HasPrefix(path, runtime) {
				t.Errorf("%s is used", path)
			}
		})
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}
