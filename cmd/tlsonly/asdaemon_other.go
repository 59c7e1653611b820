//go:build !linux

package main

import "syscall"

// attributes has a process run with a credential; there is no right to read all
// files but root's.
func attributes(c *syscall.Credential, _ bool) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: c}
}
