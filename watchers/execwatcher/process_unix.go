//go:build unix && !linux

package execwatcher

import (
	"errors"
	"syscall"
)

// attributes puts a command into a group of its own. It outlives an agent that
// is killed: only Linux can tie the two together.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

// groupLives says whether a group has any member.
func groupLives(group int) bool {
	return !errors.Is(syscall.Kill(-group, 0), syscall.ESRCH)
}
