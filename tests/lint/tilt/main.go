// Command tilt evaluates a Tiltfile with the Starlark interpreter that Tilt is built
// on, and prints its resources as JSON lines. The builtins that a Tiltfile of ours
// uses are declared with their documented parameters; `local` really runs the command.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"

	"go.starlark.net/starlark"
	"go.starlark.net/starlarkstruct"
	"go.starlark.net/syntax"
)

func words(value starlark.Value) ([]string, error) {
	if text, ok := starlark.AsString(value); ok {
		return []string{"sh", "-c", text}, nil
	}
	list, ok := value.(*starlark.List)
	if !ok {
		return nil, fmt.Errorf("a command is a string or a list, not %s", value.Type())
	}
	var found []string
	for index := range list.Len() {
		word, ok := starlark.AsString(list.Index(index))
		if !ok {
			return nil, fmt.Errorf("word %d of a command is no string", index)
		}
		found = append(found, word)
	}
	return found, nil
}

type builtin = func(*starlark.Thread, *starlark.Builtin, starlark.Tuple, []starlark.Tuple) (starlark.Value, error)

func local(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var command starlark.Value
	var quiet bool
	if err := starlark.UnpackArgs(b.Name(), args, kwargs, "command", &command, "quiet?", &quiet); err != nil {
		return nil, err
	}
	line, err := words(command)
	if err != nil {
		return nil, err
	}
	run := exec.Command(line[0], line[1:]...)
	run.Stderr = os.Stderr
	output, err := run.Output()
	return starlark.String(output), err
}

func resource(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var name string
	var cmd starlark.Value
	var deps, resourceDeps, labels *starlark.List
	var allowParallel bool
	err := starlark.UnpackArgs(b.Name(), args, kwargs, "name", &name, "cmd?", &cmd, "deps?", &deps,
		"resource_deps?", &resourceDeps, "labels?", &labels, "allow_parallel?", &allowParallel)
	if err != nil {
		return nil, err
	}
	row := map[string][]string{"name": {name}}
	for key, value := range map[string]*starlark.List{"deps": deps, "resource_deps": resourceDeps} {
		if value != nil {
			if row[key], err = words(value); err != nil {
				return nil, err
			}
		}
	}
	if row["cmd"], err = words(cmd); err != nil {
		return nil, err
	}
	text, err := json.Marshal(row)
	fmt.Println(string(text))
	return starlark.None, err
}

func contexts(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var names starlark.Value
	return starlark.None, starlark.UnpackArgs(b.Name(), args, kwargs, "contexts", &names)
}

func getenv(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var key, fallback string
	if err := starlark.UnpackArgs(b.Name(), args, kwargs, "key", &key, "default?", &fallback); err != nil {
		return nil, err
	}
	if value := os.Getenv(key); value != "" {
		return starlark.String(value), nil
	}
	return starlark.String(fallback), nil
}

func main() {
	declared := starlark.StringDict{}
	for name, function := range map[string]builtin{"local": local, "local_resource": resource, "allow_k8s_contexts": contexts} {
		declared[name] = starlark.NewBuiltin(name, function)
	}
	declared["os"] = starlarkstruct.FromStringDict(starlark.String("os"), starlark.StringDict{"getenv": starlark.NewBuiltin("getenv", getenv)})
	// As Tilt allows it: loops and ifs at the top level, names set again.
	options := &syntax.FileOptions{TopLevelControl: true, GlobalReassign: true}
	thread := &starlark.Thread{Name: "Tiltfile"}
	if _, err := starlark.ExecFileOptions(options, thread, os.Args[1], nil, declared); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
