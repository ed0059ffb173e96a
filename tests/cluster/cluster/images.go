package main

func (a *app) startRuntime(note noteFunc) error { return a.cluster.start(a.cluster.containerd()) }
func (a *app) loadImages(note noteFunc) error   { return nil }
func (a *app) loadOurs(note noteFunc) error     { return nil }
func (a *app) load() error                      { return nil }
