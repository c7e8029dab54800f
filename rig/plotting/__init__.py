"""Figures of the report: pure functions from results to figure data, and one drawing function a panel (data, ax → ax)."""
