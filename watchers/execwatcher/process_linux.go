package execwatcher

import "syscall"

// attributes puts a command into a group of its own. When the agent is killed,
// the kernel kills the command too (not what the command started, and not one
// that is set-user-ID).
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
