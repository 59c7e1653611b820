// Package place says where things lie on this kind of system: the program's own
// files, and the MTAs' that are looked for before anybody has said where they are.
// Each is only a default. And it asks a file's inode what systems name differently.
package place
