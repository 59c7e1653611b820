// Command mutate asks whether the tests would notice a wrong verdict: it turns each condition of the files that judge into its
// opposite, one at a time, and runs the tests of that package on it. A mutant that no test fails on is a survivor.
//
// A condition is each operand of if, of a switch's cases, of && and ||, and of a comparison that is returned; of a switch over a
// value each case is left out once. Loops aren't touched. The source stays as it is: the compiler gets each mutant by -overlay.
//
// Mutants that change nothing anybody could see are named in a file, one a line: FILE FUNCTION CONDITION, then " # " and why. A
// name that no mutant bears is an error, so that the file doesn't outlive the code. Exit status 1: there are survivors.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// mutant is one change of one file.
type mutant struct {
	file, function string
	line           int
	condition      string // as it stands in the source, on one line
	source         []byte // of the whole file, changed
	offset         int
}

func (m mutant) name() string { return m.file + " " + m.function + " " + m.condition }

func main() {
	equal := flag.String("equal", "", "`FILE` that names mutants which change nothing")
	also := flag.String("also", "", "`PACKAGES`, with blanks between, whose tests run on what survives its own")
	workers := flag.Int("workers", runtime.NumCPU(), "mutants tried at the same time")
	only := flag.String("only", "", "only mutants whose name contains `TEXT`")
	limit := flag.Duration("limit", 20*time.Second, "for one run of tests; a mutant that hangs is noticed")
	flag.Parse()
	if err := run(*equal, strings.Fields(*also), *workers, *only, *limit, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

func run(equal string, also []string, workers int, only string, limit time.Duration, files []string) error {
	if len(files) == 0 {
		return errors.New("name the files to change")
	}
	excused, err := readEqual(equal)
	if err != nil {
		return err
	}
	var all []mutant
	for _, file := range files {
		found, err := mutants(file)
		if err != nil {
			return err
		}
		all = append(all, found...)
	}
	for name := range excused {
		if !slices.ContainsFunc(all, func(m mutant) bool { return m.name() == name }) {
			return fmt.Errorf("%s: there is no mutant %q", equal, name)
		}
	}
	all = slices.DeleteFunc(all, func(m mutant) bool { return excused[m.name()] || !strings.Contains(m.name(), only) })
	ctx := context.Background()
	for _, file := range files {
		if out, err := test(ctx, limit, "", "./"+filepath.Dir(file)); err != nil {
			return fmt.Errorf("the tests fail without a mutant: %w\n%s", err, out)
		}
	}

	var mu sync.Mutex
	counts := map[fate]int{}
	var failed []error
	next := make(chan mutant)
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for m := range next {
				f, err := try(ctx, limit, m, also)
				mu.Lock()
				counts[f]++
				if err != nil {
					failed = append(failed, fmt.Errorf("%s:%d: %w", m.file, m.line, err))
				}
				if f != noticed {
					fmt.Printf("%s %s:%d: %s: %s\n", f, m.file, m.line, m.function, m.condition)
				}
				mu.Unlock()
			}
		})
	}
	for _, m := range all {
		next <- m
	}
	close(next)
	group.Wait()
	fmt.Printf("%d mutants: %d noticed, %d do not compile, %d survived; %d change nothing (%s)\n",
		len(all)+len(excused), counts[noticed], counts[invalid], counts[survived], len(excused), equal)
	if counts[survived] > 0 {
		failed = append(failed, fmt.Errorf("%d mutants survived", counts[survived]))
	}
	if counts[invalid] > 0 {
		failed = append(failed, fmt.Errorf("%d mutants do not compile: nothing was learned from them", counts[invalid]))
	}
	return errors.Join(failed...)
}

func readEqual(file string) (map[string]bool, error) {
	excused := map[string]bool{}
	if file == "" {
		return excused, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, why, ok := strings.Cut(line, " # ")
		if !ok || why == "" {
			return nil, fmt.Errorf("%s: %q doesn't say why", file, line)
		}
		excused[strings.TrimSpace(name)] = true
	}
	return excused, nil
}

// mutants returns all there are of a file, in the order of the source.
func mutants(file string) ([]mutant, error) {
	source, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	set := token.NewFileSet()
	tree, err := parser.ParseFile(set, file, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var found []mutant
	for _, decl := range tree.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Body == nil {
			continue
		}
		c := collector{set: set, source: source, file: file, function: functionName(f), seen: map[token.Pos]bool{}}
		ast.Inspect(f.Body, c.visit)
		found = append(found, c.found...)
	}
	slices.SortFunc(found, func(a, b mutant) int { return a.offset - b.offset })
	return found, nil
}

func functionName(f *ast.FuncDecl) string {
	if f.Recv == nil || len(f.Recv.List) == 0 {
		return f.Name.Name
	}
	t := f.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.Name + "." + f.Name.Name
		default:
			return f.Name.Name
		}
	}
}

type collector struct {
	set            *token.FileSet
	source         []byte
	file, function string
	seen           map[token.Pos]bool
	found          []mutant
}

func (c *collector) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.IfStmt:
		c.invert(n.Cond)
	case *ast.SwitchStmt:
		for _, stmt := range n.Body.List {
			clause := stmt.(*ast.CaseClause)
			if n.Tag == nil {
				for _, e := range clause.List {
					c.invert(e)
				}
			} else if clause.List != nil {
				c.leaveOut(clause)
			}
		}
	case *ast.BinaryExpr:
		switch n.Op {
		case token.LAND, token.LOR:
			c.invert(n)
		}
	case *ast.ReturnStmt:
		for _, e := range n.Results {
			if b, ok := e.(*ast.BinaryExpr); ok && compares(b.Op) {
				c.invert(b)
			}
		}
	}
	return true
}

func compares(op token.Token) bool {
	switch op {
	case token.EQL, token.NEQ, token.LSS, token.LEQ, token.GTR, token.GEQ:
		return true
	}
	return false
}

// invert makes a mutant of each operand of a condition.
func (c *collector) invert(e ast.Expr) {
	switch x := e.(type) {
	case *ast.ParenExpr:
		c.invert(x.X)
		return
	case *ast.BinaryExpr:
		if x.Op == token.LAND || x.Op == token.LOR {
			c.invert(x.X)
			c.invert(x.Y)
			return
		}
	}
	from, to := c.set.Position(e.Pos()).Offset, c.set.Position(e.End()).Offset
	c.add(e.Pos(), string(c.source[from:to]), from, to, "!("+string(c.source[from:to])+")")
}

// leaveOut makes a mutant without one case of a switch over a value.
func (c *collector) leaveOut(clause *ast.CaseClause) {
	from, to := c.set.Position(clause.Pos()).Offset, c.set.Position(clause.End()).Offset
	c.add(clause.Pos(), string(c.source[from:c.set.Position(clause.Colon).Offset]), from, to, "")
}

func (c *collector) add(pos token.Pos, text string, from, to int, change string) {
	if c.seen[pos] {
		return
	}
	c.seen[pos] = true
	c.found = append(c.found, mutant{
		file: c.file, function: c.function, line: c.set.Position(pos).Line, offset: from,
		condition: strings.Join(strings.Fields(text), " "),
		source:    slices.Concat(c.source[:from], []byte(change), c.source[to:]),
	})
}

// fate is what became of a mutant.
type fate string

const (
	noticed  fate = "noticed"
	survived fate = "SURVIVED"
	invalid  fate = "does not compile"
)

// try runs the tests on a mutant.
func try(ctx context.Context, limit time.Duration, m mutant, also []string) (fate, error) {
	dir, err := os.MkdirTemp("", "mutate-")
	if err != nil {
		return invalid, err
	}
	defer os.RemoveAll(dir)
	changed := filepath.Join(dir, filepath.Base(m.file))
	original, err := filepath.Abs(m.file)
	if err != nil {
		return invalid, err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {original: changed}})
	if err != nil {
		return invalid, err
	}
	file := filepath.Join(dir, "overlay.json")
	if err := errors.Join(os.WriteFile(changed, m.source, 0o644), os.WriteFile(file, overlay, 0o644)); err != nil {
		return invalid, err
	}
	for _, p := range append([]string{"./" + filepath.Dir(m.file)}, also...) {
		out, err := test(ctx, limit, file, p)
		switch {
		case err != nil && bytes.Contains(out, []byte("[build failed]")):
			return invalid, nil
		case err != nil:
			return noticed, nil
		}
	}
	return survived, nil
}

// test runs the tests of one package. They need no root: those that do would take minutes, and judge nothing.
func test(ctx context.Context, limit time.Duration, overlay, pkg string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit+30*time.Second) // and a build
	defer cancel()
	args := []string{"test", "-count=1", "-failfast", "-vet=off", "-short", "-timeout", limit.String()}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	// With the tests themselves, which a mutant may keep from ending.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd.CombinedOutput()
}
