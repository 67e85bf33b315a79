//go:build unix && !linux

package execwatcher

import "syscall"

// attributes puts a command into a group of its own. It outlives an agent that
// is killed: only Linux can tie the two together.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
