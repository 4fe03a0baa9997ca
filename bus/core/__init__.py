"""What the words of the glossary mean, as plain values and functions. Imports the standard library only."""
