package broker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

const (
	socketName = "socket"

	// maxSocketPath is what all unixes take: macOS has 104 bytes with the final zero.
	maxSocketPath = 103
)

// listenSocket listens in the folder for this user's other processes. The caller
// holds the folder's lock: a socket that is there is that of a server that died.
func listenSocket(dir string) (listener *net.UnixListener, err error) {
	path := filepath.Join(dir, socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	err = withShortPath(dir, func(short string) error {
		listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
		return err
	})
	switch {
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EROFS):
		return nil, fmt.Errorf("%w: make it writable, or name another one in KEYTURN_STORE", err)
	case err != nil:
		return nil, fmt.Errorf("%w: name a folder on a local disk in KEYTURN_STORE", err)
	}
	// The name it was bound by may be gone: whoever closes it removes the file.
	listener.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		listener.Close()
		return nil, err
	}
	return listener, nil
}

// dialSocket connects to the process that has the folder's lock, or returns errNoAnswer.
func dialSocket(dir string) (conn net.Conn, err error) {
	err = withShortPath(dir, func(short string) error {
		conn, err = net.Dial("unix", short)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	return conn, nil
}

// withShortPath calls do with a path of the folder's socket that is short enough for
// the kernel: if its own is not, through a link in a folder that nobody else can enter
// and that is gone afterwards.
func withShortPath(dir string, do func(path string) error) error {
	if path := filepath.Join(dir, socketName); len(path) <= maxSocketPath {
		return do(path)
	}
	private, err := os.MkdirTemp("", "keyturn-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(private)
	link := filepath.Join(private, "s")
	if err := os.Symlink(dir, link); err != nil {
		return err
	}
	return do(filepath.Join(link, socketName))
}

// control calls do with the file descriptor of a connection.
func control(conn *net.UnixConn, do func(fd int) error) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	if ctlErr := raw.Control(func(fd uintptr) { err = do(int(fd)) }); ctlErr != nil {
		return ctlErr
	}
	return err
}
