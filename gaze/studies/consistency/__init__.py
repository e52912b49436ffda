"""Does consistency follow accuracy, and what does lambda do? (thesis, Tables 1-2, Fig. 1-4)"""
