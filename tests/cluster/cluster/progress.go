package main

import (
	"fmt"
	"io"
	"os"
	"time"
)

// Progress prints counted steps with the time that each took.
// On a terminal a step's line shows how far it is; elsewhere a long step prints a line now and then.
type Progress struct {
	out      io.Writer
	terminal bool
	begin    time.Time
	step     int
	steps    int
}

const quietFor = 20 * time.Second

func newProgress(out *os.File, steps int) *Progress {
	info, err := out.Stat()
	return &Progress{
		out: out, steps: steps, begin: time.Now(),
		terminal: err == nil && info.Mode()&os.ModeCharDevice != 0,
	}
}

// Step runs one step. What it does says how far it is with note.
func (p *Progress) Step(title string, do func(note func(format string, args ...any)) error) error {
	p.step++
	head := fmt.Sprintf("[%2d/%d] %-34s", p.step, p.steps, title)
	begin, last, said := time.Now(), time.Now(), ""
	if p.terminal {
		fmt.Fprint(p.out, head)
	}
	err := do(func(format string, args ...any) {
		if !p.terminal && said != "" && time.Since(last) > quietFor {
			last = time.Now()
			fmt.Fprintf(p.out, "%s %7s  %s\n", head, short(time.Since(begin)), said)
		}
		said = fmt.Sprintf(format, args...)
		if p.terminal {
			fmt.Fprintf(p.out, "\r\033[K%s %7s  %s", head, short(time.Since(begin)), said)
		}
	})
	if p.terminal {
		fmt.Fprint(p.out, "\r\033[K")
	}
	if err != nil {
		fmt.Fprintf(p.out, "%s %7s  failed\n", head, short(time.Since(begin)))
		return fmt.Errorf("%s: %w", title, err)
	}
	fmt.Fprintf(p.out, "%s %7s  %s\n", head, short(time.Since(begin)), said)
	return nil
}

// Elapsed is the time since the first step began.
func (p *Progress) Elapsed() string { return short(time.Since(p.begin)) }

func short(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%d:%02d min", int(d.Minutes()), int(d.Seconds())%60)
}
