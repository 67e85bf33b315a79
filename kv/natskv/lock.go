//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package natskv

import (
	"os"
	"syscall"
)

// lock locks a folder until unlock is called or the process ends, however it does. It
// returns false when somebody else has the lock, unless it is to wait, and where there
// are no locks; unlock does nothing then.
func lock(dir string, wait bool) (unlock func(), ok bool) {
	none := func() {}
	file, err := os.Open(dir)
	if err != nil {
		return none, false
	}
	how := syscall.LOCK_EX
	if !wait {
		how |= syscall.LOCK_NB
	}
	if syscall.Flock(int(file.Fd()), how) != nil {
		_ = file.Close()
		return none, false
	}
	return func() {
		// A child that was just forked may still have the file.
		_ = syscall.Flock(int(file.Fd()), syscall.LOCK_UN)
		_ = file.Close()
	}, true
}
