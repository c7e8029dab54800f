"""Figures of the report: pure functions make figure data of results, drawing functions are data, ax → ax."""
