package execwatcher

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	// drainTime is how long output is still read after a command has ended. Its
	// group is dead by then, so only a process that left the group can use it up.
	drainTime = 250 * time.Millisecond

	// What will be over soon is looked at again after pauses that double.
	firstLook = 2 * time.Millisecond
	maxLook   = 100 * time.Millisecond
)

// program is what a process is started from.
type program struct {
	path string // of the file
	args []string
	env  []string
	dir  string
}

// process is a running command and the group of processes that it leads.
//
// The group is signalled also after its leader is gone. That is safe: a group
// keeps its number while it has members, and a number without any comes into use
// again only after all others were.
type process struct {
	group int

	ended chan struct{}    // closed when the command itself has ended
	state *os.ProcessState // once ended is closed
	err   error            // of waiting

	pipes   []*os.File // the ends that we read
	reading sync.WaitGroup
}

// start starts a program in a group of its own, with nothing to read, whose
// output goes to the two captures.
func start(p program, stdout, stderr *capture) (*process, error) {
	proc := &process{ended: make(chan struct{})}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	files := []*os.File{null}
	for range 2 {
		r, w, err := os.Pipe()
		if err != nil {
			proc.closePipes()
			return nil, err
		}
		defer w.Close()
		proc.pipes = append(proc.pipes, r)
		files = append(files, w)
	}

	started := make(chan error)
	go func() {
		// When this thread ends the kernel kills the command (see attributes), so it
		// has to stay. It is no thread wasted, because Wait blocks one anyway.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		leader, err := startLeader(p, files)
		if err == nil {
			proc.group = leader.Pid
		}
		started <- err
		if err == nil {
			proc.state, proc.err = leader.Wait()
			close(proc.ended)
		}
	}()
	if err := <-started; err != nil {
		proc.closePipes()
		return nil, err
	}
	for i, c := range []*capture{stdout, stderr} {
		proc.reading.Go(func() { c.readAll(proc.pipes[i]) })
	}
	return proc, nil
}

// startLeader starts the command itself. A file that was written just now may still
// be open for writing in a process that is being forked off elsewhere, and the kernel
// does not run it until that one has begun with its own program.
func startLeader(p program, files []*os.File) (*os.Process, error) {
	for pause := firstLook; ; pause *= 2 {
		leader, err := os.StartProcess(p.path, p.args, &os.ProcAttr{
			Dir: p.dir, Env: p.env, Files: files, Sys: attributes(),
		})
		if !errors.Is(err, syscall.ETXTBSY) || pause > maxLook {
			return leader, err
		}
		time.Sleep(pause)
	}
}

// terminate asks the group to end, and returns when all of it has or the grace is over.
func (p *process) terminate(grace time.Duration) {
	p.signal(syscall.SIGTERM)
	over := time.Now().Add(grace)
	for pause := firstLook; groupLives(p.group); pause = min(2*pause, maxLook) {
		left := time.Until(over)
		if left <= 0 {
			return
		}
		time.Sleep(min(pause, left))
	}
}

// finish kills what is left of the group and returns when the command has ended
// and its output is read.
func (p *process) finish() {
	p.signal(syscall.SIGKILL)
	<-p.ended
	for _, pipe := range p.pipes {
		pipe.SetReadDeadline(time.Now().Add(drainTime))
	}
	p.reading.Wait()
	p.closePipes()
}

// signal sends a signal to all of the group. That nobody is left is no error.
func (p *process) signal(s syscall.Signal) { syscall.Kill(-p.group, s) }

func (p *process) closePipes() {
	for _, pipe := range p.pipes {
		pipe.Close()
	}
}
