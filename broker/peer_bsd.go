//go:build darwin || freebsd

package broker

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerUID returns the user at the other end, as it was when it connected.
func peerUID(conn *net.UnixConn) (uid int, err error) {
	err = control(conn, func(fd int) error {
		cred, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
		if err == nil {
			uid = int(cred.Uid)
		}
		return err
	})
	return uid, err
}
