package machine

import "time"

// What counts as a storm: a machine that steps and steps, because two watchers
// undo each other's work or a command fails at once, again and again.
const (
	stormFree  = 50               // steps without a pause
	stormFull  = 50               // further steps until the longest pause
	stormPause = 5 * time.Second  // the longest pause
	stormQuiet = 60 * time.Second // without a step, after which all is forgotten
)

// storm says how long the machine should pause after a step.
type storm struct {
	steps int
	last  time.Time
}

// goesOn says whether the next step would pause.
func (s *storm) goesOn(now time.Time) bool {
	return s.steps > stormFree && now.Sub(s.last) < stormQuiet
}

// step counts a step and returns the pause that is due after it.
func (s *storm) step(now time.Time) time.Duration {
	if now.Sub(s.last) >= stormQuiet {
		s.steps = 0
	}
	s.steps++
	s.last = now

	over := float64(s.steps-stormFree) / stormFull
	switch {
	case over <= 0:
		return 0
	case over >= 1:
		return stormPause
	default:
		return time.Duration(over * over * float64(stormPause))
	}
}
