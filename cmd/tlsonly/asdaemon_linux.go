package main

import "syscall"

// attributes has a process run with a credential, and with the right to read
// all files if readAll.
func attributes(c *syscall.Credential, readAll bool) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Credential: c}
	if readAll {
		a.AmbientCaps = []uintptr{dacReadSearch}
	}
	return a
}
